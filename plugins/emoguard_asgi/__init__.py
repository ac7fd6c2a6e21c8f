"""Carries notices over the wire of OpenAI-compatible servers that run in this process."""

from emoguard_asgi.health import Health
from emoguard_asgi.middleware import EmoGuardMiddleware

__all__ = ["EmoGuardMiddleware", "Health"]
