"""Estimates the cost of a study from speeds measured here and now."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoguard.study.runner import groups, perform

if TYPE_CHECKING:
    from emoguard.study.speech import Speech
    from emoguard.study.tasks import Task

SHORT, LONG = 4, 12
"""Tokens of the two answers timed for a speed."""

SAMPLED = 2
"""Groups of tasks of a block that are timed."""

CELLS = 6
"""Cells that suffice to time one where rows run one after the other."""


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


def costs(
    speech: Speech,
    tasks: Sequence[Task],
    seed: int = 0,
    progress: Callable[[str], object] = lambda _: None,
) -> list[Cost]:
    """Return the cost of each block, after timing some of its tasks; their results are dropped.

    `progress` gets the name of each block before it is timed: on a large model that takes minutes.
    """
    found = []
    for name, some in blocks(tasks).items():
        progress(name)
        tokens = max(task.tokens for task in some)
        cells = sum(len(task.cells) for task in some)
        found.append(Cost(name, len(some), cells, tokens, _seconds(speech, some, seed)))
    return found


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


def _seconds(speech: Speech, tasks: Sequence[Task], seed: int) -> float:
    """Return the CPU seconds of the tasks of a block, from some of their groups."""
    some = _spread(list(groups(tasks, speech.rows)))
    measured = _in_batches if speech.rows > 1 else _in_turn
    seconds = sum(measured(speech, group, seed) for group in some)
    return seconds * _rows(tasks) / sum(_rows(group) for group in some)


def _in_batches(speech: Speech, group: Sequence[Task], seed: int) -> float:
    """Return the CPU seconds of a group, from its first batch and a part of its tokens."""
    first = [_begun(task, speech.rows) for task in group]
    seconds = _timed(speech, first, seed, SHORT)
    if group[0].tokens > SHORT:
        slope = (_timed(speech, first, seed, LONG) - seconds) / (_long(group[0]) - SHORT)
        seconds += max(0.0, slope) * (group[0].tokens - SHORT)
    return seconds * _rows(group) / _rows(first)


def _begun(task: Task, rows: int) -> Task:
    """Return a task with as many of the cells that run first as one batch takes."""
    ordered = sorted(task.cells, key=lambda cell: cell.prompt)
    count = max(1, rows * len(ordered) // task.rows)
    return dataclasses.replace(task, cells=tuple(ordered[:count]))


def _in_turn(speech: Speech, group: Sequence[Task], seed: int) -> float:
    """Return the CPU seconds of a group of one task, from a part of its cells and of its tokens.

    Cells after one prompt share the cost of reading it: a prompt and a row are timed separately.
    """
    (task,) = group
    prompts = {cell.prompt for cell in task.cells}
    together = [cell for cell in task.cells if cell.prompt == task.cells[0].prompt]
    some = tuple(together[:: max(1, len(together) // CELLS)][:CELLS])
    part = dataclasses.replace(task, cells=some)
    alone = _timed(speech, [dataclasses.replace(task, cells=some[:1])], seed, SHORT)
    if len(task.cells) == 1 and not task.tokens:
        return alone
    several = _timed(speech, [part], seed, SHORT)
    row = max(0.0, several - alone) / max(1, len(some) - 1)
    prompt = max(0.0, alone - row)
    if task.tokens > SHORT:
        slope = (_timed(speech, [part], seed, LONG) - several) / (_long(task) - SHORT)
        row += max(0.0, slope) / len(some) * (task.tokens - SHORT)
    return len(prompts) * prompt + len(task.cells) * row


def _timed(speech: Speech, tasks: Sequence[Task], seed: int, tokens: int) -> float:
    """Return the CPU seconds of tasks whose answers are cut at `tokens` tokens."""
    short = [dataclasses.replace(task, tokens=min(tokens, task.tokens)) for task in tasks]
    started = time.process_time()
    perform(speech, short, seed)
    return time.process_time() - started


def _long(task: Task) -> int:
    return min(LONG, task.tokens)


def _rows(tasks: Sequence[Task]) -> int:
    return sum(task.rows for task in tasks)


def _spread(groups: Sequence[list[Task]]) -> list[list[Task]]:
    """Return a few groups spread over a block."""
    places = [(2 * n + 1) * len(groups) // (2 * SAMPLED) for n in range(SAMPLED)]
    return [groups[n] for n in sorted(set(places))]
