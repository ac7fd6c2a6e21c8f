"""Keeps positions computed steered apart in a cache that shares prefixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from emoguard.runtime.patch import attribute
from emoguard_transformers.step import Slot

Plain = Callable[..., Any]


def keep_apart(cache: Any, slots: Mapping[str, Slot], undo: ExitStack) -> None:
    """Keep steered requests from finding or leaving prefixes in `cache`, until `undo`.

    The index of prefixes knows tokens and no plans: another request with the same tokens would be
    given keys and values that were computed under the plan.
    """

    def is_steered(request_id: str) -> bool:
        slot = slots.get(request_id)
        return slot is not None and slot.session.steering is not None

    def finding(plain: Plain) -> Plain:
        def search_prefix_match(request_id: str, *args: Any, **kwargs: Any) -> Any:
            return 0 if is_steered(request_id) else plain(request_id, *args, **kwargs)

        return search_prefix_match

    def leaving(plain: Plain) -> Plain:
        def mark_complete_blocks(state: Any, *args: Any, **kwargs: Any) -> Any:
            return None if is_steered(state.request_id) else plain(state, *args, **kwargs)

        return mark_complete_blocks

    for name, wrap in (("search_prefix_match", finding), ("mark_complete_blocks", leaving)):
        undo.enter_context(attribute(cache, name, wrap(getattr(cache, name))))
