"""Directions, calibrations and files of probes."""
