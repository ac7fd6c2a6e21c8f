"""Progress bars on stderr."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


def bars() -> Progress:
    """Return progress bars with a description, a count and the time remaining."""
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def follow(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a function that takes a task in words, how much of it is done, and its size.

    Each task has a bar of its own, from its first call on.
    """
    tasks: dict[str, TaskID] = {}

    def show(task: str, done: int, size: int) -> None:
        if task not in tasks:
            tasks[task] = progress.add_task(task, total=size)
        progress.update(tasks[task], completed=done)

    return show
