"""Reads responses with a probe, and keeps the readings on disk response by response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.store import RowStore
from emoguard.probe.residuals import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.probe import Probe
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Generated


@dataclass(frozen=True, eq=False)
class Readings:
    """A probe's readings on every row of some responses.

    `projections` has one array (tokens, labels) per response; `norms`, (layers, tokens), and
    `along`, h·v on the steer directions, (layers, tokens, labels), join all responses.
    """

    projections: list[NDArray[np.float32]]
    norms: NDArray[np.float32]
    along: NDArray[np.float32]


def read_responses(
    door: Residuals,
    probe: Probe,
    responses: Sequence[Generated],
    folder: str | Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Readings:
    """Read responses, at least one, through `door`.

    With `folder`, readings are kept in it and used again by a second call.

    Raises:
        EmoGuardError: the folder cannot be used.

    """
    layers, labels = len(probe.layers), len(probe.labels)
    longest = max(len(each.token_ids) for each in responses)
    shape = (len(responses), longest, labels + layers + layers * labels)
    with _store(folder, door, probe, responses, shape) as (rows, keep, done):
        for number, response in enumerate(responses):
            if not done[number]:
                values = _read(door, probe, response)
                check_finite(door, values, "an answer")
                rows[number, : len(values)] = values
                keep(number)
            progress(number + 1)
        # Rows beyond the end of a shorter response are NaN.
        parts = [each[~np.isnan(each[:, 0])] for each in rows]
    whole = np.concatenate(parts)
    along = whole[:, labels + layers :].reshape(len(whole), layers, labels)
    return Readings(
        [part[:, :labels] for part in parts],
        whole[:, labels : labels + layers].T,
        along.transpose(1, 0, 2),
    )


def _read(door: Residuals, probe: Probe, response: Generated) -> NDArray[np.float32]:
    """Return (tokens, labels + layers + layers * labels)."""
    residuals = response.residuals(door, probe.layers)
    norms = np.linalg.norm(residuals, axis=2).T
    along = np.einsum("lth,lkh->tlk", residuals, probe.steer).reshape(len(norms), -1)
    return np.hstack([probe.project(residuals), norms, along]).astype(np.float32)


@contextmanager
def _store(
    folder: str | Path | None,
    door: Residuals,
    probe: Probe,
    responses: Sequence[Generated],
    shape: tuple[int, ...],
) -> Iterator[tuple[NDArray[np.float32], Callable[[int], None], NDArray[np.bool_]]]:
    """Return the rows, NaN where unread; a function that saves one; a mask of those read."""
    rows = np.full(shape, np.nan, np.float32)
    if folder is None:
        yield rows, lambda _: None, np.zeros(shape[0], bool)
        return
    bound = {"model": door.identity.digest, "probe": _digest(probe), "responses": _ids(responses)}
    # One folder each: another probe's readings of the same responses must not be taken for ours.
    name = hashlib.sha256(json.dumps([bound, shape]).encode()).hexdigest()[:16]
    with RowStore(Path(folder) / name, bound, shape) as store:
        rows[store.done] = store.rows()[store.done]
        yield rows, lambda n: store.write([n], rows[[n]]), store.done


def _digest(probe: Probe) -> str:
    digest = hashlib.sha256(str(probe.layers).encode())
    for array in (probe.read, probe.steer, probe.centre, probe.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _ids(responses: Sequence[Generated]) -> str:
    text = json.dumps([[each.prompt_ids, each.token_ids] for each in responses])
    return hashlib.sha256(text.encode()).hexdigest()
