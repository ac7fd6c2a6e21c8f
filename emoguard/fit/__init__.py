"""Makes probes: corpora, extraction, directions, calibration."""
