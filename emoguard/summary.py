"""Turns a reading into a report: a pure function of the reading, its request and its site."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emoguard.probe.crossing import count, rolling_mean
from emoguard.records import PHASES, LabelScore, Phase, Receipt, Report, Request, Status, TokenScore
from emoguard.runtime.phases import REASONING
from emoguard.runtime.reading import Reading, Steered
from emoguard.site import Site


def report(reading: Reading, request: Request, site: Site) -> Report:
    """Summarise one reading. Pure: same arguments, same report (but for its time stamp)."""
    fresh = np.isfinite(reading.rows).all(axis=1)
    status = _status(reading, site, is_fresh=bool(fresh.all()))
    answering = reading.phases != REASONING
    at_sink = np.arange(len(reading.rows)) < reading.attention_sinks
    scored = status in ("scored", "uncalibrated", "cancelled")
    rows = reading.rows[fresh & answering & ~at_sink] if scored else reading.rows[:0]
    return Report(
        id=request.id,
        call=request.call,
        conversation=request.conversation,
        status=status,
        model=reading.identity.name,
        backend=reading.backend,
        probe=site.probe.name,
        identity=reading.identity.digest,
        finish=reading.finish,
        completion_tokens=len(reading.token_ids),
        tokens_scored=int(fresh.sum()),
        scores=_scores(rows, site),
        short=len(rows) < site.policy.alarms.window_tokens,
        phases=_phase_counts(reading.phases),
        reasoning=reading.reasoning,
        tokens=() if request.scores == "summary" else _token_scores(reading),
        overhead_seconds=reading.seconds,
        receipt=_receipt(reading.steered),
        detail=_detail(reading),
        faults=_broken(reading),
        denied=request.denied,
        attention_sinks=int((answering & at_sink).sum()),
        provisional=site.probe.is_provisional,
    )


def _status(reading: Reading, site: Site, *, is_fresh: bool) -> Status:
    if reading.skipped:
        return "skipped"
    if reading.fault:
        return "error"
    if not is_fresh:
        return "incomplete"
    if reading.finish == "cancelled":
        return "cancelled"
    return "uncalibrated" if site.calibration is None else "scored"


def _scores(rows: NDArray[np.float32], site: Site) -> dict[str, LabelScore]:
    """Return the score of each label over rows (tokens, labels); none without a row."""
    if not len(rows):
        return {}
    alarms, width = site.policy.alarms, rows.shape[1]
    means = rows.mean(axis=0, dtype=np.float64)
    rolling = rolling_mean(rows, alarms.window_tokens)
    peaks = rolling.max(axis=0).tolist() if len(rolling) else [None] * width
    ranks: Sequence[float | None] = [None] * width
    if site.calibration is not None:
        ranks = site.calibration.rank(means, site.columns).tolist()
    crossed = count(rolling, site.levels, alarms.hysteresis_sd).tolist()
    verdicts = site.probe.verdicts
    return {
        label: LabelScore(
            float(mean),
            peak,
            rank,
            None if site.thresholds.get(label) is None else crossings,
            verdicts.get(label),
        )
        for label, mean, peak, rank, crossings in zip(
            site.read, means, peaks, ranks, crossed, strict=True
        )
    }


def _phase_counts(phases: NDArray[np.uint8]) -> dict[Phase, int]:
    counts = np.bincount(phases, minlength=len(PHASES))
    return {phase: int(count) for phase, count in zip(PHASES, counts, strict=True)}


def _detail(reading: Reading) -> str | None:
    steering = reading.steered.fault if reading.steered else None
    return reading.fault or reading.skipped or reading.halted or steering


def _broken(reading: Reading) -> tuple[str, ...]:
    """Return the parts of EmoGuard that failed during a response."""
    steering = reading.steered.fault if reading.steered else None
    parts = {"reading": reading.fault, "steering": steering}
    return tuple(part for part, fault in parts.items() if fault)


def _receipt(steered: Steered | None) -> Receipt | None:
    if steered is None:
        return None
    steering, fresh = steered.steering, np.isfinite(steered.dose)
    doses = steered.dose[fresh]
    return Receipt(
        plan=steering.plan.as_dict(),
        asked=steering.asked.as_dict() if steering.asked else None,
        layers=steering.layers,
        bound=steering.bound,
        dose_median=float(np.median(doses)) if len(doses) else None,
        dose_max=float(doses.max()) if len(doses) else None,
        applied=int((doses > 0).sum()),
        clipped=int((steered.clipped & fresh).sum()),
        faulted=int((steered.faulted | ~fresh).sum()),
    )


def _token_scores(reading: Reading) -> tuple[TokenScore, ...]:
    sinks = reading.attention_sinks
    rows = np.where(np.isfinite(reading.rows), reading.rows, np.nan)
    rows[:sinks][~np.isnan(rows[:sinks])] = 0
    pieces: Sequence[str | None] = reading.pieces or [None] * len(rows)
    return tuple(
        TokenScore(
            int(token),
            PHASES[phase],
            tuple(None if math.isnan(value) else value for value in row),
            place < sinks,
            piece,
        )
        for place, (token, phase, row, piece) in enumerate(
            zip(reading.token_ids, reading.phases, rows.tolist(), pieces, strict=True)
        )
    )
