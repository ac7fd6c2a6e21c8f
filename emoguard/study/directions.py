"""Makes further steer directions of a study: random ones, and ones derived from labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.advice import calibrate_command
from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.probe.calibration import Calibration
    from emoguard.probe.identity import ModelIdentity
    from emoguard.probe.probe import Probe
    from emoguard.probe.residuals import Residuals

TEXTS = 60
"""Number of neutral prompts whose residuals random directions are drawn from."""

SKIPPED = 4
"""Tokens left out at the beginning of a text: attention sinks have residuals of their own."""


def norms_for(guard: Guard, identity: ModelIdentity) -> Calibration:
    """Return the calibration whose reference norms doses on a model file are shares of.

    Raises:
        EmoGuardError: the probe has no calibration of this model file.

    """
    calibration = guard.calibration(identity)
    if calibration is None:
        raise EmoGuardError(
            f"a dose is a share of the reference norm, and {guard.probe.name} has no calibration "
            f"of {identity.name} ({identity.quantisation}): make one with {calibrate_command()}"
        )
    return calibration


def centred_rows(
    door: Residuals, layers: Sequence[int], texts: Sequence[str]
) -> NDArray[np.float32]:
    """Return residuals of texts around their mean at each layer, (layers, tokens, hidden).

    Raises:
        EmoGuardError: the texts are too short to have any.

    """
    parts = [door.residuals(door.tokenize(text), layers)[:, SKIPPED:] for text in texts]
    rows = np.concatenate([part.astype(np.float32) for part in parts], axis=1)
    if rows.shape[1] < 2:
        raise EmoGuardError(
            f"random directions are drawn among residuals of texts, got {rows.shape[1]} tokens: "
            "give more or longer texts"
        )
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def random_directions(rows: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return random unit directions, (layers, count, hidden), in the covariance of residuals.

    Each is a sum of the centred `rows` (layers, tokens, hidden) with standard normal weights, the
    same at every layer: at each layer a draw from the normal distribution of the residuals'
    covariance, and across layers it turns as residuals do.
    """
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((count, rows.shape[1])).astype(np.float32)
    return unit(weights @ rows)


def without(probe: Probe, label: str, axis: str) -> NDArray[np.float32]:
    """Return a label's steer direction without its part along an axis, (layers, hidden), unit."""
    steer, other = (unit(probe.steer[:, probe.labels.index(each)]) for each in (label, axis))
    return unit(steer - (steer * other).sum(axis=-1, keepdims=True) * other)


def unit(directions: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return directions (..., hidden) at length 1."""
    lengths = np.linalg.norm(directions.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(directions / np.maximum(lengths, 1e-12), np.float32)


def with_directions(
    probe: Probe, calibration: Calibration, directions: Mapping[str, NDArray[np.float32]]
) -> tuple[Probe, Calibration]:
    """Return the probe with further labels that may be added, and its calibration.

    `directions` are unit steer directions (layers, hidden) by name. Their limits are all 0: they
    are for adding only, and never read.
    """
    if not directions:
        return probe, calibration
    names = tuple(directions)
    more = np.stack(list(directions.values()), axis=1)
    layers = len(probe.layers)
    ones = np.ones(len(names), np.float32)
    grid = np.zeros((len(calibration.means), len(names)), np.float32)
    return dataclasses.replace(
        probe,
        labels=(*probe.labels, *names),
        read=np.concatenate([probe.read, more], axis=1),
        steer=np.concatenate([probe.steer, more], axis=1),
    ), dataclasses.replace(
        calibration,
        location=np.concatenate([calibration.location, 0 * ones]),
        scale=np.concatenate([calibration.scale, ones]),
        means=np.concatenate([calibration.means, grid], axis=1),
        limits=np.concatenate(
            [calibration.limits, np.broadcast_to(grid, (layers, *grid.shape))], axis=2
        ),
        curve=None,  # no alarms are needed here
    )
