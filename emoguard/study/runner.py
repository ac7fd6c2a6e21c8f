"""Runs the tasks of a study on a model, one record per task."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.study.speech import Given, Row
from emoguard.study.tasks import TEMPERATURES

if TYPE_CHECKING:
    from emoguard.study.speech import Speech, Weighed, Written
    from emoguard.study.store import Store
    from emoguard.study.tasks import Cell, Task

Done = Callable[["Task"], None]


class OutOfTimeError(Exception):
    """Raised when the time of this run is up; finished records are kept."""


class Runner:
    """Performs tasks with `speech` and keeps the records in `store`.

    A piece is closed after `piece_seconds` of CPU time; after `seconds` of CPU time, if given,
    `run` raises `OutOfTimeError` between two groups of tasks.
    """

    def __init__(
        self,
        speech: Speech,
        store: Store,
        *,
        seed: int,
        piece_seconds: float,
        seconds: float | None = None,
    ) -> None:
        self._speech = speech
        self._store = store
        self._seed = seed
        self._piece = piece_seconds
        self._left = seconds

    def run(self, tasks: Sequence[Task], done: Done = lambda _: None) -> None:
        """Perform the remaining ones of `tasks`.

        Raises:
            OutOfTimeError: the time of this run is up.

        """
        for group in groups(tasks, self._speech.rows):
            if any(task.key not in self._store for task in group):
                self.check_time()
                self._perform(group)
            for task in group:
                done(task)

    def check_time(self) -> None:
        """Raise if the time of this run is up.

        Raises:
            OutOfTimeError: it is.

        """
        if self._left is not None and self._left <= 0:
            raise OutOfTimeError

    def spend(self, seconds: float) -> None:
        """Count CPU seconds that were spent beside the tasks."""
        if self._left is not None:
            self._left -= seconds

    def _perform(self, group: Sequence[Task]) -> None:
        """Perform a group and store the tasks that are missing, at shares of its CPU time.

        A group that was stored in part runs whole again: other rows beside a task's own would
        change the last bits of its numbers.
        """
        started = time.process_time()
        records = perform(self._speech, group, self._seed)
        seconds = time.process_time() - started
        rows = sum(task.rows for task in group)
        for task, record in zip(group, records, strict=True):
            if task.key not in self._store:
                self._store.add({**record, "seconds": round(seconds * task.rows / rows, 4)})
        self.spend(seconds)
        if self._store.open_seconds >= self._piece:
            self._store.close_piece()


def groups(tasks: Sequence[Task], rows: int) -> Iterator[list[Task]]:
    """Yield tasks in groups to perform together, of at most `rows` rows or of one task.

    They depend on no record, so that a study resumed makes the same ones.
    """
    for _, alike in itertools.groupby(tasks, key=lambda task: (task.block, task.tokens)):
        group: list[Task] = []
        for task in alike:
            if group and sum(each.rows for each in group) + task.rows > rows:
                yield group
                group = []
            group.append(task)
        yield group


@dataclass(frozen=True)
class _Asked:
    """A task in one of its cells, and the tokens before the answer."""

    task: Task
    cell: Cell
    before: tuple[int, ...]


def perform(speech: Speech, tasks: Sequence[Task], seed: int) -> list[dict[str, Any]]:
    """Return the record of each task: for each cell an answer, or the likelihood of each opening.

    The tasks are of one group.
    """
    asked = [each for task in tasks for each in _asked(speech, task)]
    if tasks[0].tokens:
        results = _written(speech, asked, tasks[0].tokens, seed)
    else:
        results = _weighed(speech, tasks, asked)
    cells: dict[str, dict[str, Any]] = {task.key: {} for task in tasks}
    for each, result in zip(asked, results, strict=True):
        cells[each.task.key][each.cell.key] = result
    return [{"task": task.key, "cluster": task.cluster, "cells": cells[task.key]} for task in tasks]


def _asked(speech: Speech, task: Task) -> Iterator[_Asked]:
    """Yield the cells of a task, those with one prompt after another: it is read once for all."""
    ordered = sorted(task.cells, key=lambda cell: cell.prompt)
    for _, some in itertools.groupby(ordered, key=lambda cell: cell.prompt):
        cells = list(some)
        before = speech.prompt(task.text, cells[0].system)
        for cell in cells:
            yield _Asked(task, cell, before)


def _written(
    speech: Speech, asked: Sequence[_Asked], tokens: int, seed: int
) -> list[dict[str, Any]]:
    rows = [
        Row(
            each.before,
            each.cell.vector.plan,
            TEMPERATURES[each.cell.sampling],
            seed + each.cell.sample,
            each.task.seeded,
        )
        for each in asked
    ]
    written = speech.write(rows, tokens)
    # The mean negative log-likelihood per token, under the unsteered model.
    judged = [
        Given(each.before, answer.token_ids)
        for each, answer in zip(asked, written, strict=True)
        if each.task.surprise
    ]
    surprises = iter([-each.mean for each in speech.weigh(judged)])
    return [
        _answer(answer, next(surprises) if each.task.surprise else None)
        for each, answer in zip(asked, written, strict=True)
    ]


def _answer(written: Written, surprise: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {"text": written.text, "tokens": len(written.token_ids)}
    if written.dose:
        record |= {"dose": round(written.dose, 5), "clipped": round(written.clipped, 3)}
    return record if surprise is None else record | {"surprise": round(surprise, 4)}


def _weighed(
    speech: Speech, tasks: Sequence[Task], asked: Sequence[_Asked]
) -> list[dict[str, Any]]:
    openings = {task.key: [speech.encode(text) for text in (*task.yes, *task.no)] for task in tasks}
    rows = [
        Given(each.before, ids, each.cell.vector.plan)
        for each in asked
        for ids in openings[each.task.key]
    ]
    weighed = iter(speech.weigh(rows))
    return [
        _choice(list(itertools.islice(weighed, len(openings[each.task.key]))), len(each.task.yes))
        for each in asked
    ]


def _choice(weighed: Sequence[Weighed], yes: int) -> dict[str, Any]:
    record = {"margin": round(_margin(weighed, yes), 5)}
    doses = [each.dose for each in weighed if each.dose]
    return record | {"dose": round(float(np.median(doses)), 5)} if doses else record


def _margin(weighed: Sequence[Weighed], yes: int) -> float:
    """Return the margin of the yes openings, in mean log-probability per token."""
    means = [each.mean for each in weighed]
    return float(np.mean(means[:yes]) - np.mean(means[yes:]))
