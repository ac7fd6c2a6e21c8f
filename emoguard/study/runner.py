"""Runs the tasks of a study on a model, one record per task."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
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
    `run` raises `OutOfTimeError` between two tasks.
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
        for task in tasks:
            if task.key not in self._store:
                if self._left is not None and self._left <= 0:
                    raise OutOfTimeError
                started = time.process_time()
                record = perform(self._speech, task, self._seed)
                seconds = time.process_time() - started
                self._store.add({**record, "seconds": round(seconds, 4)})
                if self._left is not None:
                    self._left -= seconds
                if self._store.open_seconds >= self._piece:
                    self._store.close_piece()
            done(task)


def perform(speech: Speech, task: Task, seed: int) -> dict[str, Any]:
    """Return the record of a task: for each cell an answer, or the likelihood of each opening."""
    cells: dict[str, Any] = {}
    # Cells with one prompt run together: a batch in Transformers, a shared prefix in llama.cpp.
    ordered = sorted(task.cells, key=lambda cell: cell.prompt)
    for _, group in itertools.groupby(ordered, key=lambda cell: cell.prompt):
        some = list(group)
        before = speech.prompt(task.text, some[0].system)
        if task.tokens:
            cells |= _written(speech, task, before, some, seed)
        else:
            cells |= _weighed(speech, task, before, some)
    return {"task": task.key, "cluster": task.cluster, "cells": cells}


def _written(
    speech: Speech, task: Task, before: Sequence[int], cells: Sequence[Cell], seed: int
) -> dict[str, Any]:
    rows = [
        Row(
            cell.vector.plan,
            TEMPERATURES[cell.sampling],
            seed + cell.sample,
            task.seeded,
        )
        for cell in cells
    ]
    written = speech.write(before, rows, task.tokens)
    surprises = _surprises(speech, before, written) if task.surprise else [None] * len(written)
    return {
        cell.key: _answer(each, surprise)
        for cell, each, surprise in zip(cells, written, surprises, strict=True)
    }


def _answer(written: Written, surprise: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {"text": written.text, "tokens": len(written.token_ids)}
    if written.dose:
        record |= {"dose": round(written.dose, 5), "clipped": round(written.clipped, 3)}
    return record if surprise is None else record | {"surprise": round(surprise, 4)}


def _surprises(speech: Speech, before: Sequence[int], written: Sequence[Written]) -> list[float]:
    """Return the mean negative log-likelihood per token of answers, under the unsteered model."""
    weighed = speech.weigh(before, [Given(each.token_ids) for each in written])
    return [-each.mean for each in weighed]


def _weighed(
    speech: Speech, task: Task, before: Sequence[int], cells: Sequence[Cell]
) -> dict[str, Any]:
    openings = [speech.encode(text) for text in (*task.yes, *task.no)]
    rows = [Given(ids, cell.vector.plan) for cell in cells for ids in openings]
    weighed = speech.weigh(before, rows)
    record: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        some = weighed[number * len(openings) : (number + 1) * len(openings)]
        record[cell.key] = {"margin": round(_margin(some, len(task.yes)), 5)}
        doses = [each.dose for each in some if each.dose]
        if doses:
            record[cell.key]["dose"] = round(float(np.median(doses)), 5)
    return record


def _margin(weighed: Sequence[Weighed], yes: int) -> float:
    """Return the margin of the yes openings, in mean log-probability per token."""
    means = [each.mean for each in weighed]
    return float(np.mean(means[:yes]) - np.mean(means[yes:]))
