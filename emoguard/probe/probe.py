"""Holds labelled directions in the residual stream, and the one formula that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.advice import fit_command
from emoguard.errors import EmoGuardError
from emoguard.records import VERDICTS, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.calibration import Calibration
    from emoguard.probe.identity import ModelIdentity
    from emoguard.probe.witness import Witness

MAX_WITNESS_TOKENS = 512
"""A witness is one sentence and runs at every attach; a longer one is not a witness."""


FEW_OF = 4
"""A caution is due if at least one label in this many is unsupported."""

SUPPORTED: tuple[Verdict, ...] = ("usable", "weak")


@dataclass(frozen=True, eq=False)
class Probe:
    """Directions for `labels` at `layers` of one model family, with their recipe.

    `read` (R) and `steer` (V) have shape (layers, labels, hidden), V rows of unit length; `centre`
    (mu) has shape (layers, hidden); `weights` (w) has shape (layers,). The projection of a token is
    the sum over layers of w * (h - mu) Rᵀ. `axes` are the labels that are contrasts (valence)
    rather than emotions. `recipe` and `card` are plain data: the making of the probe, and its
    measurements.
    """

    name: str
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    read: NDArray[np.float32]
    steer: NDArray[np.float32]
    centre: NDArray[np.float32]
    weights: NDArray[np.float32]
    witness: Witness
    architecture: str
    model_layers: int
    axes: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_names()
        self._check_arrays()

    @property
    def hidden(self) -> int:
        """Return the width of the residual stream this probe reads."""
        return int(self.read.shape[2])

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdict of the validation on each label, from the card.

        Labels without a known verdict are missing: a card may hold anything.
        """
        listed = self.card.get("verdicts")
        if not isinstance(listed, Mapping):
            return {}
        known = [(label, v) for label in self.labels for v in VERDICTS if listed.get(label) == v]
        return dict(known)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Return the reasons to doubt this probe: those in its card, and those its verdicts imply.

        One line each. Entries that are not a line of text are missing: a card may hold anything.
        """
        kept = self.card.get("cautions")
        lines = kept if isinstance(kept, list | tuple) else ()
        printable = [line for line in lines if isinstance(line, str) and line.isprintable()]
        shown = (self._unfinished(), self._unsupported())
        return tuple(printable + [line for line in shown if line])

    @property
    def is_provisional(self) -> bool:
        """Return whether a quick fit made this probe, to be replaced by a whole one."""
        return self.recipe.get("provisional") is True

    def _unfinished(self) -> str | None:
        if not self.is_provisional:
            return None
        return (
            "provisional, from a quick fit of few texts and answers: the command that made it "
            "finishes it if run again without --quick"
        )

    def _unsupported(self) -> str | None:
        """Return a sentence on labels without support, if they are more than a few of all."""
        poor = [label for label, v in self.verdicts.items() if v not in SUPPORTED]
        if len(poor) * FEW_OF < len(self.labels):
            return None
        return (
            f"nothing supports {', '.join(poor)}: they may say as little as chance; build on none "
            "of them"
        )

    def project(self, residuals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return raw projections (tokens, labels) of residuals (layers, tokens, hidden)."""
        return self.fold(None).read(residuals)

    def fold(self, calibration: Calibration | None, labels: Sequence[str] | None = None) -> Readout:
        """Fold centre, weights and calibration into one matmul per layer.

        Without a calibration the readout gives raw projections. `labels` selects and orders.
        """
        chosen = self.indices(labels) if labels else list(range(len(self.labels)))
        matrix = self.read[:, chosen].astype(np.float64) * self.weights[:, None, None]
        location = np.zeros(len(chosen))
        if calibration is not None:
            scale = calibration.scale[chosen].astype(np.float64)
            matrix /= scale[None, :, None]
            location = calibration.location[chosen] / scale
        # The location belongs to the sum over layers; it is taken off in the first.
        shift = np.zeros((len(self.layers), len(chosen)))
        shift[0] = -location
        return Readout(
            tuple(self.labels[i] for i in chosen),
            self.layers,
            matrix.astype(np.float32),
            self.centre,
            shift.astype(np.float32),
        )

    def indices(self, labels: Sequence[str]) -> list[int]:
        """Return the positions of `labels`; an unknown one is an error that lists the known."""
        unknown = [label for label in labels if label not in self.labels]
        if unknown:
            raise EmoGuardError(
                f"unknown label {', '.join(unknown):.200}: this probe has {', '.join(self.labels)}"
            )
        return [self.labels.index(label) for label in labels]

    def check_fits(self, identity: ModelIdentity) -> None:
        """Raise if this probe cannot belong to a model, before anything is hooked."""
        if self.hidden != identity.hidden or self.model_layers != identity.layers:
            raise EmoGuardError(
                f"probe {self.name} was made for a {self.architecture} model with "
                f"{self.model_layers} layers of width {self.hidden}, got {identity.name} with "
                f"{identity.layers} layers of width {identity.hidden}: give a probe of that model, "
                f"or make one with {fit_command()}"
            )

    def _check_names(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise EmoGuardError(
                f"labels must be distinct and at least one, got {self.labels!s:.200}"
            )
        if not set(self.axes) <= set(self.labels):
            raise EmoGuardError(f"axes must be labels, got {self.axes!s:.200}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise EmoGuardError(
                f"layers must be increasing and at least one, got {self.layers!s:.200}"
            )
        if self.layers[0] < 0 or self.layers[-1] >= self.model_layers - 1:
            raise EmoGuardError(
                f"layers must lie in [0, {self.model_layers - 2}] (the last block is never read), "
                f"got {self.layers!s:.200}"
            )

    def _check_arrays(self) -> None:
        n, k, h = len(self.layers), len(self.labels), self.read.shape[-1]
        tokens = len(self.witness.token_ids)
        if not 2 <= tokens <= MAX_WITNESS_TOKENS or np.any(self.witness.token_ids < 0):
            raise EmoGuardError(
                f"the witness must be 2 to {MAX_WITNESS_TOKENS} token ids, none negative, got "
                f"{tokens}: make the probe again"
            )
        for name, array, wanted in (
            ("read", self.read, (n, k, h)),
            ("steer", self.steer, (n, k, h)),
            ("centre", self.centre, (n, h)),
            ("weights", self.weights, (n,)),
            ("witness residuals", self.witness.residuals, (n, 3, tokens - 1, h)),
        ):
            if array.shape != wanted:
                raise EmoGuardError(
                    f"{name} must have shape {wanted}, got {array.shape}: the arrays of a probe "
                    f"belong to one model; make it again with {fit_command()}"
                )
            if not np.all(np.isfinite(array)):
                raise EmoGuardError(f"{name} holds NaN or infinity: make the probe again")
        lengths = np.linalg.norm(self.steer.astype(np.float64), axis=2)
        if not np.allclose(lengths, 1.0, atol=1e-3):
            raise EmoGuardError(
                f"steer directions must have length 1, got {lengths.min():.3g} to "
                f"{lengths.max():.3g}: make the probe again"
            )


@dataclass(frozen=True, eq=False)
class Readout:
    """A probe folded for one model: the matrices that hooks multiply with.

    z = sum over layers of (h - centre) matrixᵀ + shift; `matrix` is float32 (layers, labels,
    hidden), `centre` (layers, hidden), `shift` (layers, labels).
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    matrix: NDArray[np.float32]
    centre: NDArray[np.float32]
    shift: NDArray[np.float32]

    def part(self, layer: int, residual: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return layer number `layer` of `layers`' share of z, for residuals (..., hidden)."""
        share = (residual - self.centre[layer]) @ self.matrix[layer].T + self.shift[layer]
        return np.asarray(share, np.float32)

    def read(self, residuals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return z, shape (tokens, labels), of residuals (layers, tokens, hidden)."""
        parts = [self.part(n, residual) for n, residual in enumerate(residuals)]
        return np.asarray(np.sum(parts, axis=0), np.float32)
