"""Keeps the plans of open `steering` blocks, for generations that start now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

from emoguard.steering.plan import Plan


class Standing:
    """Plans in force, each for as long as its block is open.

    Blocks of several threads or tasks overlap in any order: each takes away its own plan and no
    other. Every plan is in force for all of them.

    >>> standing = Standing()
    >>> with standing.during(Plan(cap={"sad": 0.9})), standing.during(Plan(cap={"sad": 0.8})):
    ...     standing.plan().cap
    {'sad': 0.8}
    >>> standing.plan().is_empty
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: tuple[Plan, ...] = ()

    def plan(self) -> Plan:
        """Return the open plans as one, each laid over those that were open before it."""
        return reduce(lambda base, plan: plan.over(base), self._open, Plan())

    def during(
        self, plan: Plan | Mapping[str, Any], check: Callable[[Plan], None] | None = None
    ) -> AbstractContextManager[None]:
        """Put `plan`, a Plan or a mapping with its keys, in force in a block, unless refused.

        `check` may refuse it where the block begins.

        Raises:
            EmoGuardError: it is not a plan; raised before the block begins.

        """
        return self._during(Plan.parse(plan), check)

    @contextmanager
    def _during(self, plan: Plan, check: Callable[[Plan], None] | None) -> Iterator[None]:
        own = replace(plan)  # distinct from equal plans
        with self._lock:  # the plan checked is the plan in force
            if check is not None:
                check(plan)
            self._open = (*self._open, own)
        try:
            yield
        finally:
            with self._lock:
                self._open = tuple(each for each in self._open if each is not own)
