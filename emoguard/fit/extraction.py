"""One pass over texts: the mean residual of each text at each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.protocols import Residuals


def skipped_tokens(tokens: int, skip: int) -> int:
    """Return how many leading tokens to leave out: `skip`, but never more than half the text.

    The first tokens of a text carry its position more than its content; the very first is an
    attention sink with a huge norm.
    """
    return max(1, min(skip, tokens // 2))


def pool(
    door: Residuals,
    texts: Sequence[str],
    layers: Sequence[int],
    skip: int = 20,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Return mean residuals, float32 (texts, layers, hidden).

    The mean runs over the tokens from position `skip` on. `progress` is called with the number of
    texts done.
    """
    pooled = np.empty((len(texts), len(layers), door.identity.hidden), np.float32)
    for index, text in enumerate(texts):
        token_ids = door.tokenize(text)
        if len(token_ids) < 4:
            raise EmoGuardError(f"a text to fit on needs at least 4 tokens, got {text!r:.60}")
        start = skipped_tokens(len(token_ids), skip)
        residuals = door.residuals(token_ids, layers)[:, start:]
        pooled[index] = residuals.mean(axis=1, dtype=np.float64)
        progress(index + 1)
    return pooled
