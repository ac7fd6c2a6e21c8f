"""Provides a whole runtime without a model: residuals, probe, calibration, model and joint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.fit.responses import calibrate
from emoguard.guard import Guard
from emoguard.probe.calibration import QUANTILES, Calibration
from emoguard.probe.certificate import LEVELS, Curve, Threshold
from emoguard.probe.crossing import HYSTERESIS, WINDOW
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.probe import Probe
from emoguard.probe.residuals import Residuals
from emoguard.probe.witness import Witness
from emoguard.runtime.joint import Sessions
from emoguard.runtime.patch import attribute
from emoguard.runtime.session import take_request
from emoguard.runtime.speaker import Generated
from emoguard.site import Site
from emoguard.steering.moves import Moves
from emoguard.steering.rounding import FLOAT32

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAKE_IDENTITY = ModelIdentity("fake", "fake", 6, 32, "F32", "0" * 64)


class FakeResiduals:
    """A deterministic stand-in for a model: residuals are a function of token and layer only."""

    backend = "fake"

    def __init__(self, identity: ModelIdentity = FAKE_IDENTITY, noise: float = 0.0) -> None:
        self.identity = identity
        self.noise = noise

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return one token per word, 1 as BOS."""
        return [1] * special + [2 + sum(map(ord, word)) % 500 for word in text.split()]

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return (layers, tokens, hidden), normal with layer-dependent scale."""
        out = np.empty((len(layers), len(token_ids), self.identity.hidden), np.float32)
        for n, layer in enumerate(layers):
            for t, token in enumerate(token_ids):
                seeded = np.random.default_rng([layer, token, t])
                own = seeded.normal(size=self.identity.hidden) * (1 + layer)
                extra = seeded.normal(size=self.identity.hidden) * self.noise
                out[n, t] = own + extra
        return out


def make_probe(
    door: Residuals,
    labels: Sequence[str] = ("happy", "sad"),
    layers: Sequence[int] = (1, 2),
    seed: int = 0,
) -> Probe:
    """Return a probe of random unit directions that fits the model behind `door`."""
    rng = np.random.default_rng(seed)
    hidden = door.identity.hidden
    directions = rng.normal(size=(2, len(layers), len(labels), hidden))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    read, steer = directions.astype(np.float32)
    return Probe(
        name="random",
        labels=tuple(labels),
        layers=tuple(layers),
        read=read,
        steer=steer,
        centre=rng.normal(size=(len(layers), hidden)).astype(np.float32),
        weights=np.full(len(layers), 1 / len(layers), np.float32),
        witness=Witness.record(door, layers),
        architecture=door.identity.architecture,
        model_layers=door.identity.layers,
    )


def make_calibration(probe: Probe, identity: ModelIdentity) -> Calibration:
    """Return a made-up calibration of the right shapes (location 0.5, scale 2).

    Its crossings certify 0.1 per 1,000 positions from z = 1.05 on.
    """
    k = len(probe.labels)
    crossings = np.where(LEVELS > 1, 0, 1000).astype(np.float32)[:, None].repeat(k, axis=1)
    grid = np.linspace(-3, 3, QUANTILES, dtype=np.float32)[:, None].repeat(k, axis=1)
    return Calibration(
        identity,
        np.full(k, 0.5, np.float32),
        np.full(k, 2.0, np.float32),
        grid,
        np.ones(len(probe.layers), np.float32),
        np.broadcast_to(grid, (len(probe.layers), *grid.shape)),
        responses=1000,
        tokens=64000,
        curve=Curve(WINDOW, HYSTERESIS, 49000, 1000, LEVELS, crossings, crossings),
        created=1_700_000_000.0,
    )


def measure_calibration(door: Residuals, probe: Probe, vocabulary: int = 200) -> Calibration:
    """Return a calibration measured on random tokens: right norms and limits for a tiny model."""
    rng = np.random.default_rng(0)
    texts = rng.integers(3, vocabulary, (12, 28)).tolist()
    return calibrate(door, probe, [Generated(text[:4], text[4:]) for text in texts])


class AlarmingGuard(Guard):
    """A guard that certifies the alarm levels of `levels`, by label, whatever was calibrated.

    Without any, the first label crosses its threshold with the first full window.
    """

    levels: Mapping[str, float] | None = None

    def site(self, identity: ModelIdentity, backend: str = "") -> Site:
        """Return this guard on one model file."""
        site = super().site(identity, backend)
        levels = {self.monitored[0]: -1e6} if self.levels is None else self.levels
        site.thresholds = {
            label: Threshold(levels[label], 0.1, 0) if label in levels else None
            for label in site.labels
        }
        return site


class FakeModel:
    """Chooses tokens by its last residual, and passes each block's output on to the next.

    Its residuals are those of `door` until `hook(layer, residual)`, called at each block, returns
    another one.
    """

    def __init__(self, door: FakeResiduals | None = None, vocabulary: int = 200) -> None:
        self.door = door or FakeResiduals()
        self.hook: Any = None
        rng = np.random.default_rng(1)
        self._embedding = rng.normal(size=(vocabulary, self.door.identity.hidden))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (vocabulary,) after `token_ids`."""
        layers = range(self.door.identity.layers)
        change = np.zeros(self.door.identity.hidden, np.float32)
        for layer, own in enumerate(self.door.residuals(token_ids, layers)[:, -1]):
            h = own + change
            moved = h if self.hook is None else self.hook(layer, h)
            change = change + (moved - h)
        return np.asarray(self._embedding @ moved, np.float32)

    def generate(self, prompt: Sequence[int], tokens: int, after: Any = None) -> list[int]:
        """Return `tokens` greedily chosen token ids, fewer if `after(token)` says to stop."""
        ids = list(prompt)
        for _ in range(tokens):
            ids.append(int(self.logits(ids).argmax()))
            if after is not None and after(ids[-1]):
                break
        return ids[len(prompt) :]


class FakeJoint:
    """Joins a `FakeModel` to a watch: the smallest runtime that keeps every rule."""

    backend, thinking, make_moves = "fake", None, Moves
    session: Any = None

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.identity = lambda **_: model.door.identity
        self.decode = lambda token_ids: " ".join(map(str, token_ids))
        self.refuse = self.settle = self.release = lambda _: None

    @contextmanager
    def hooked(self, site: Site) -> Iterator[Residuals]:
        """Read in the scale of `site`."""
        self.readout, self.row = site.readout, np.zeros(len(site.read), np.float32)
        with attribute(self.model, "hook", self._see):
            yield self.model.door

    @contextmanager
    def wrapped(self, sessions: Sessions) -> Iterator[None]:
        """Give every `generate` a session."""
        self.sessions = sessions
        with attribute(self.model, "generate", self._generate):
            yield

    def _generate(self, prompt: Sequence[int], tokens: int, **kwargs: Any) -> list[int]:
        self.session = session = self.sessions.open(take_request(kwargs), prompt)
        self.moves = self.make_moves(session.steering, FLOAT32)
        with self.sessions.closing(session):
            return FakeModel.generate(self.model, prompt, tokens, self._commit)

    def _see(self, layer: int, h: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.session is None or self.session.closed or layer not in self.readout.layers:
            return h
        with self.sessions.guarded(self.session):
            self.row = self.row + self.readout.part(self.readout.layers.index(layer), h)
        with self.sessions.guarded(self.session, "steering"):
            if self.session.steering_fault is None and not self.session.at_sink:
                return h if (moved := self.moves(layer, h)) is None else moved
        return h

    def _commit(self, token: int) -> str | None:
        row, self.row = self.row, np.zeros_like(self.row)
        row = np.full_like(row, np.nan) if self.session.fault else row
        move = (0.0, 0.0, 0.0) if self.session.at_sink else self.moves.take()
        return self.sessions.commit(self.session, token, row, move)
