"""Alarms when the distribution of a site's responses moved away from its frozen baseline."""

from emoguard_drift.detector import DriftDetector
from emoguard_drift.monitor import DriftMonitor

__all__ = ["DriftDetector", "DriftMonitor"]
