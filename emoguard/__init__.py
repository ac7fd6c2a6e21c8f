"""EmoGuard reads named emotion directions in a language model's residual stream while it runs.

A direction is not a feeling, and EmoGuard never says it is.
"""

from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.notices.render import render
from emoguard.policy.policy import Policy
from emoguard.probe.probe import Probe
from emoguard.records import Alert, Notice, Report, Request
from emoguard.runtime.attach import attach, open_guard, watch
from emoguard.runtime.score import TextScores, score
from emoguard.runtime.watch import Watch
from emoguard.steering.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "Alert",
    "EmoGuardError",
    "Guard",
    "Notice",
    "Plan",
    "Policy",
    "Probe",
    "Report",
    "Request",
    "TextScores",
    "Watch",
    "__version__",
    "attach",
    "open_guard",
    "render",
    "score",
    "watch",
]
