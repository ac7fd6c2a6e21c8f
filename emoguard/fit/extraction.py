"""Computes the mean residual of each text at each layer, in one pass over the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit.store import RowStore, check, rows_done
from emoguard.probe.pooling import EMBEDDINGS, batches, pooling
from emoguard.probe.residuals import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.fit.corpora import Text
    from emoguard.probe.residuals import Pool, Residuals

SKIP = 20
"""Leading tokens to leave out."""

SHORTEST = 4
"""Tokens of the shortest text that can be pooled."""


@dataclass(frozen=True)
class Portion:
    """The numbers of the `texts` to read first; `is_all` if no others are read."""

    texts: Sequence[int]
    is_all: bool = False


def skipped_tokens(tokens: int, skip: int) -> int:
    """Return how many leading tokens to leave out: `skip`, but never more than half the text.

    The first tokens of a text carry its position more than its content; the very first is an
    attention sink with a huge norm.
    """
    return max(1, min(skip, tokens // 2))


def extract(
    door: Residuals,
    texts: Sequence[str],
    folder: str | Path,
    *,
    skip: int = SKIP,
    progress: Callable[[int], None] = lambda _: None,
    portion: Portion | None = None,
) -> NDArray[np.float32]:
    """Return mean residuals at all layers that can be read, float32 (texts, layers, hidden).

    Index n on the second axis is layer n. The mean runs over the tokens from position `skip` on;
    the first token is never in it. The array is mapped from `folder`, where rows are saved along
    the way: a second call with the same model, texts and `skip` continues the first one.
    `progress` is called with the number of texts done. `portion` are the texts to begin with.

    Raises:
        EmoGuardError: a text has fewer than 4 tokens, or the folder holds anything else.

    """
    rows = _rows(door, texts, folder, skip=skip, progress=progress, portion=portion)
    return rows[:, 1:]


def extract_embedded(
    door: Residuals,
    texts: Sequence[str],
    folder: str | Path,
    *,
    skip: int = SKIP,
    progress: Callable[[int], None] = lambda _: None,
    portion: Portion | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the result of `extract`, and the mean input of block 0, (texts, hidden).

    The latter is None if the door has no embeddings.

    Raises:
        EmoGuardError: see `extract`.

    """
    rows = _rows(door, texts, folder, skip=skip, progress=progress, portion=portion)
    return rows[:, 1:], None if np.isnan(rows[:1, 0]).any() else rows[:, 0]


def begun(door: Residuals, texts: Sequence[str], folder: str | Path, skip: int = SKIP) -> int:
    """Return the number of texts that an earlier run read into `folder`.

    Raises:
        EmoGuardError: it read another model, other texts, or pooled otherwise.

    """
    check(folder, _bound(door, texts, skip), _shape(door, texts))
    return rows_done(folder)


def pool(
    door: Residuals,
    texts: Sequence[str],
    layers: Sequence[int],
    skip: int = SKIP,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Return the result of `extract` at some layers, in memory."""
    lengths = _lengths(door, texts)
    pooled = np.empty((len(texts), len(layers), door.identity.hidden), np.float32)
    done = 0
    with pooling(door, layers, max(lengths, default=0)) as run:
        for batch in batches(lengths):
            pooled[batch] = _means(run, door, [texts[n] for n in batch], skip)
            done += len(batch)
            progress(done)
    return pooled


def _rows(
    door: Residuals,
    texts: Sequence[str],
    folder: str | Path,
    *,
    skip: int,
    progress: Callable[[int], None],
    portion: Portion | None,
) -> NDArray[np.float32]:
    """Return (texts, 1 + layers, hidden): the embeddings, then every block but the last."""
    lengths = _lengths(door, texts)
    wanted = _in_batches(lengths, portion)
    with RowStore(folder, _bound(door, texts, skip), _shape(door, texts)) as store:
        progress(int(store.done.sum()))
        if not all(store.done[list(batch)].all() for batch in wanted):
            _fill(store, wanted, door, texts, max(lengths), skip=skip, progress=progress)
        rows = store.rows()
    return rows[list(portion.texts)] if portion is not None and portion.is_all else rows


def _bound(door: Residuals, texts: Sequence[str], skip: int) -> dict[str, Any]:
    return {"model": door.identity.digest, "texts": _digest(texts), "skip": skip}


def _shape(door: Residuals, texts: Sequence[str]) -> tuple[int, ...]:
    return len(texts), door.identity.layers, door.identity.hidden


def _in_batches(lengths: Sequence[int], portion: Portion | None) -> list[list[int]]:
    """Return the numbers of the texts to read, in batches.

    A portion has batches of its own whether or not the rest follows: finishing a quick fit then
    gives the same rows as reading everything at once.
    """
    if portion is None:
        return batches(lengths)
    first = set(portion.texts)
    parts = [sorted(first), [n for n in range(len(lengths)) if n not in first]]
    return [
        [part[n] for n in batch]
        for part in parts[: 1 if portion.is_all else 2]
        for batch in batches([lengths[n] for n in part])
    ]


def _fill(
    store: RowStore,
    wanted: Sequence[Sequence[int]],
    door: Residuals,
    texts: Sequence[str],
    longest: int,
    *,
    skip: int,
    progress: Callable[[int], None],
) -> None:
    layers = range(EMBEDDINGS, door.identity.layers - 1)
    with pooling(door, layers, longest) as run:
        for batch in wanted:
            # Batches are the same after an interruption, and so are the rows, to the last bit.
            if not store.done[list(batch)].all():
                means = _means(run, door, [texts[n] for n in batch], skip)
                check_finite(door, means[:, 1:], "a text")  # the first are embeddings, if any
                store.write(batch, means)
                progress(int(store.done.sum()))


def _means(run: Pool, door: Residuals, texts: Sequence[str], skip: int) -> NDArray[np.float32]:
    token_ids = [door.tokenize(text) for text in texts]
    return run(token_ids, [skipped_tokens(len(ids), skip) for ids in token_ids])


def readable(door: Residuals, texts: Sequence[Text]) -> list[Text]:
    """Return the texts that have enough tokens to be pooled."""
    return [text for text in texts if len(door.tokenize(text.text)) >= SHORTEST]


def _lengths(door: Residuals, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens in each text; the tokens themselves are not kept."""
    lengths = [len(door.tokenize(text)) for text in texts]
    for number, (text, length) in enumerate(zip(texts, lengths, strict=True), 1):
        if length < SHORTEST:
            raise EmoGuardError(
                f"a text to fit on needs at least {SHORTEST} tokens, got {text!r:.60} as number "
                f"{number} of {len(texts):,}: leave it out"
            )
    return lengths


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()
