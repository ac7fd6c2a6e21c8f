"""Estimates the cost of a study from speeds measured here and now."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoguard.study.runner import perform

if TYPE_CHECKING:
    from emoguard.study.speech import Speech
    from emoguard.study.tasks import Task

SHORT, LONG = 4, 12
"""Tokens of the two answers timed for a speed."""

SAMPLED = 2
"""Tasks of a block that are timed."""


@dataclass(frozen=True)
class Cost:
    """One block of a study: its tasks, their cells, and CPU seconds for all of them."""

    block: str
    tasks: int
    cells: int
    tokens: int
    seconds: float


def blocks(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Return tasks by block; written answers of the pilot are apart from its choices."""
    blocks: dict[str, list[Task]] = {}
    for task in tasks:
        blocks.setdefault(block_of(task), []).append(task)
    return blocks


def block_of(task: Task) -> str:
    """Return the block that a task's cost is counted in."""
    if task.block != "pilot":
        return task.block
    return "pilot, answers" if task.tokens else "pilot, choices"


def costs(speech: Speech, tasks: Sequence[Task], seed: int = 0) -> list[Cost]:
    """Return the cost of each block, after timing some of its tasks; their results are dropped."""
    return [
        Cost(
            name,
            len(some),
            sum(len(task.cells) for task in some),
            max(task.tokens for task in some),
            len(some) * _mean([_seconds(speech, task, seed) for task in _spread(some)]),
        )
        for name, some in blocks(tasks).items()
    ]


def pieces(seconds: float, piece_seconds: float) -> int:
    """Return the number of pieces for this many seconds of work."""
    return max(1, -int(-seconds // piece_seconds))


def by_block(records: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the CPU seconds that the records of each block took."""
    seconds: dict[str, float] = {}
    for key, record in records.items():
        block = key.partition("/")[0]
        seconds[block] = seconds.get(block, 0.0) + float(record.get("seconds", 0.0))
    return seconds


def _seconds(speech: Speech, task: Task, seed: int) -> float:
    """Return the CPU seconds of a task, from a part of its cells and of its tokens.

    Cells after one prompt share the cost of reading it: a prompt and a row are timed separately.
    """
    prompts = {cell.prompt for cell in task.cells}
    together = [cell for cell in task.cells if cell.prompt == task.cells[0].prompt]
    some = tuple(together[:: max(1, len(together) // speech.fair)][: speech.fair])
    short = dataclasses.replace(task, tokens=min(SHORT, task.tokens))
    alone = _timed(speech, dataclasses.replace(short, cells=some[:1]), seed)
    if len(task.cells) == 1 and not task.tokens:
        return alone
    several = _timed(speech, dataclasses.replace(short, cells=some), seed)
    row = max(0.0, several - alone) / max(1, len(some) - 1)
    prompt = max(0.0, alone - row)
    if task.tokens > SHORT:
        long = dataclasses.replace(task, tokens=min(LONG, task.tokens), cells=some)
        slope = (_timed(speech, long, seed) - several) / (long.tokens - SHORT)
        row += max(0.0, slope) / len(some) * (task.tokens - SHORT)
    return len(prompts) * prompt + len(task.cells) * row


def _timed(speech: Speech, task: Task, seed: int) -> float:
    started = time.process_time()
    perform(speech, task, seed)
    return time.process_time() - started


def _spread(tasks: Sequence[Task]) -> list[Task]:
    """Return a few tasks spread over a block."""
    places = [(2 * n + 1) * len(tasks) // (2 * SAMPLED) for n in range(SAMPLED)]
    return [tasks[n] for n in sorted(set(places))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
