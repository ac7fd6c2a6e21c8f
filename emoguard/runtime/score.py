"""Scores given texts: z of each text and label through the offline door."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from emoguard.cautions import cautions
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.annotation import describe
from emoguard.probe.pooling import batches, pooling
from emoguard.runtime.attach import check_options, find, naming_what_is_missing, shipped
from emoguard.runtime.attention import sink_length
from emoguard.runtime.watched import Options

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from emoguard.probe.residuals import Residuals

log = logging.getLogger("emoguard")


@dataclass(frozen=True, eq=False)
class TextScores:
    """Scores of texts: `z` is float32 (texts, labels), in the order of the texts and `labels`.

    If no calibration fits the model file, `calibrated` is False and `z` holds raw projections.
    """

    labels: tuple[str, ...]
    z: NDArray[np.float32]
    calibrated: bool

    def as_dicts(self) -> list[dict[str, float]]:
        """Return one dictionary per text, from label to score: the rows of a data frame."""
        return [dict(zip(self.labels, row, strict=True)) for row in self.z.tolist()]

    def __getitem__(self, label: str) -> NDArray[np.float32]:
        """Return the scores of one label, (texts,)."""
        if label not in self.labels:
            raise KeyError(f"unknown label {label}: there are {', '.join(self.labels)}")
        return self.z[:, self.labels.index(label)]


def score(
    model: Any,
    texts: Iterable[str],
    probe: str | os.PathLike[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> TextScores:
    """Return the mean z of each text and label, on the scale of live readings.

    The model reads each text by itself, as a prompt without chat template; nothing is generated,
    and a watch on the model is not disturbed. `probe` is a probe file or the name of a shipped one,
    by default the shipped one that fits; `labels` selects and orders, by default all. Options are
    those of `attach`. The mean runs over all tokens but the attention sink: the first position, and
    repetitions of its token right behind it.

    Raises:
        EmoGuardError: a probe that does not fit, an unknown label, or a text without a token
            behind its first.

    """
    plugin, inner = find(model)
    check_options(plugin.open_residuals, inner, options, ["probe", "labels"])
    with naming_what_is_missing(inner):
        door = plugin.open_residuals(inner, **options)
    guard = shipped(door) if probe is None else Guard.load(probe)
    guard.probe.check_fits(door.identity)
    guard.probe.witness.check(door, guard.probe.layers)
    for caution in cautions(guard, door.identity):
        log.warning("%s", caution)
    calibration = guard.calibration(door.identity)
    readout = guard.probe.fold(calibration, labels)
    means = _means(door, _checked(texts), readout.layers)
    return TextScores(readout.labels, readout.read(means), calibration is not None)


def _checked(texts: Iterable[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        EmoGuardError: something else, a single text included.

    """
    listed = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else None
    others = [each for each in listed or () if not isinstance(each, str)]
    if listed is None or others:
        wrong = describe(texts if listed is None else others[0])
        raise EmoGuardError(f"texts: wanted a list of texts, got {wrong}: write [text]")
    return listed


def _means(door: Residuals, texts: Sequence[str], layers: Sequence[int]) -> NDArray[np.float32]:
    """Return the mean residual of each text behind its attention sink, (layers, texts, hidden).

    z is linear: z of a mean is the mean of z.
    """
    token_ids = [door.tokenize(text) for text in texts]
    starts = [sink_length(ids) if ids else 0 for ids in token_ids]
    for number, (ids, start) in enumerate(zip(token_ids, starts, strict=True)):
        if start == len(ids):
            raise EmoGuardError(
                f"texts[{number}]: wanted a token behind the first one, got {texts[number]!r:.60}"
            )
    out = np.empty((len(texts), len(layers), door.identity.hidden), np.float32)
    lengths = [len(ids) for ids in token_ids]
    if texts:
        with pooling(door, layers, max(lengths)) as run:
            for batch in batches(lengths):
                out[batch] = run([token_ids[n] for n in batch], [starts[n] for n in batch])
    return out.transpose(1, 0, 2)
