"""Makes probes from texts: corpora, extraction, directions, calibration."""
