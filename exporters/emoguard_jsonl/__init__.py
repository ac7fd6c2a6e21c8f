"""Writes reports to an append-only audit log whose lines are chained by a keyed hash."""

from emoguard_jsonl.head import Head, read_head
from emoguard_jsonl.key import Key
from emoguard_jsonl.log import AuditLog
from emoguard_jsonl.parts import in_order, last_line, parts
from emoguard_jsonl.verdict import Accepted, Finding, Verdict, accepted, verify

__all__ = [
    "Accepted",
    "AuditLog",
    "Finding",
    "Head",
    "Key",
    "Verdict",
    "accepted",
    "in_order",
    "last_line",
    "parts",
    "read_head",
    "verify",
]
