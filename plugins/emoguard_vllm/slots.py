"""Keeps the plans in force in one engine: each takes a slot while a sequence follows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from emoguard.errors import EmoGuardError


class Slots:
    """Counts the sequences that follow each plan; at most `most` different plans at a time.

    >>> slots = Slots(1)
    >>> slots.take("calm")
    >>> slots.is_free("sad"), slots.is_free("calm")
    (False, True)
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: Counter[Hashable] = Counter()

    def is_free(self, plan: Hashable) -> bool:
        """Return whether a sequence with this plan may start."""
        return plan in self._taken or len(self._taken) < self.most

    def take(self, plan: Hashable) -> None:
        """Count a sequence that starts with this plan.

        Raises:
            EmoGuardError: every slot is taken by another plan.

        """
        if not self.is_free(plan):
            raise EmoGuardError(
                f"{self.most} different plans are in force already: try again when one of their "
                "responses has ended, or start the engine with more slots in additional_config"
            )
        self._taken[plan] += 1

    def leave(self, plan: Hashable) -> bool:
        """Count a sequence that ended; return whether it was the last with this plan."""
        self._taken[plan] -= 1
        if self._taken[plan] > 0:
            return False
        del self._taken[plan]
        return True

    def __len__(self) -> int:
        return len(self._taken)
