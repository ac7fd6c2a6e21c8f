"""Serves a live page before a watched server: answers with readings, and an operator's view."""

from emoguard_page.operatorpage import OperatorPage
from emoguard_page.page import Page
from emoguard_page.traffic import Traffic

__all__ = ["OperatorPage", "Page", "Traffic"]
