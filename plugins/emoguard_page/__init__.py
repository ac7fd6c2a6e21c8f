"""A live page in front of a watched server: an answer and its readings, and the operator's view."""

from emoguard_page.operatorpage import OperatorPage
from emoguard_page.page import Page
from emoguard_page.traffic import Traffic

__all__ = ["OperatorPage", "Page", "Traffic"]
