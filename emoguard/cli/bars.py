"""Shows the progress of long work: bars on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from emoguard.cli.screen import Screen

EVERY_SECONDS = 50.0
"""Seconds between two lines of one task: with the time of a step, at least one line a minute."""

LOOK_SECONDS = 1.0

SPEED_SECONDS = 600.0
"""Seconds over which a speed is measured: a step of a batch takes a minute."""

TOGETHER_SECONDS = 0.2
"""Steps within so many seconds are one: those of a batch end at once, at no speed."""


class Bars(Progress):
    """Bars on stderr; without a terminal, a line at the start and end of a task and each minute.

    A long step does not silence it: a thread repeats the task's line. `now` returns the time in
    seconds, for tests.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        screen = Screen(stderr=True)
        super().__init__(
            TextColumn("{task.description:24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=screen,
            get_time=now,
            speed_estimate_period=SPEED_SECONDS,
            disable=not screen.is_terminal,
        )
        self._shown: dict[TaskID, tuple[str, float]] = {}
        self._last = self.get_time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Start; see `rich`."""
        super().start()
        if self.disable:
            self._thread.start()

    def stop(self) -> None:
        """Stop; see `rich`."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        super().stop()

    def beat(self) -> None:
        """Print a line of the newest unfinished task if the last one is old."""
        with self._lock:
            running = [task for task in self._tasks.values() if not task.finished]
            if running and self.get_time() - self._last >= EVERY_SECONDS:
                self._print(running[-1])

    def add_task(self, description: str, *args: Any, **options: Any) -> TaskID:
        """Add a task; see `rich`."""
        task = super().add_task(description, *args, **options)
        self._show(task)
        return task

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task; see `rich`."""
        super().update(task_id, **changes)
        self._show(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count a step of a task; see `rich`."""
        super().advance(task_id, advance)
        self._show(task_id)

    def _show(self, task_id: TaskID) -> None:
        """Print a task's line if one is due: at a new description, after a minute, at the end."""
        with self._lock:
            task = self._tasks[task_id]
            known, since = self._shown.get(task_id, ("", 0.0))
            key = f"{task.description}{' done' if task.finished else ''}"
            if self.disable and (key != known or self.get_time() - since >= EVERY_SECONDS):
                self._shown[task_id] = key, self.get_time()
                self._print(task)

    def _print(self, task: Task) -> None:
        self._last = self.get_time()
        self.console.print(_line(task), soft_wrap=True)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.beat()


def _line(task: Task) -> str:
    if task.total is None:
        return task.description
    line = f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}"
    if task.finished or task.time_remaining is None:
        return line
    return f"{line}, about {duration(task.time_remaining)} left"


def duration(seconds: float) -> str:
    """Return a duration in words, rounded to the precision of an estimate."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} seconds"
    if seconds < 5400:
        minutes = max(1, round(seconds / 60))
        return "1 minute" if minutes == 1 else f"{minutes} minutes"
    return f"{seconds / 3600:.1f} hours"


def follow(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a function of a task's name, the part of it that is done, and its size.

    Each task gets a bar with its first call.
    """
    tasks: dict[str, TaskID] = {}
    shown: dict[str, float] = {}

    def show(task: str, done: int, size: int) -> None:
        now = progress.get_time()
        if task not in tasks:
            tasks[task] = progress.add_task(task, total=size)
        elif done < size and now - shown[task] < TOGETHER_SECONDS:
            return
        shown[task] = now
        progress.update(tasks[task], completed=done)

    return show
