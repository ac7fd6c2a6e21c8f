"""Alarms when a label fires more often than its certified rate."""

from emoguard_rate.detector import RateDetector
from emoguard_rate.monitor import RateMonitor

__all__ = ["RateDetector", "RateMonitor"]
