"""`emoguard calibrate`: measures neutral responses of a model and certifies alarm thresholds."""

from __future__ import annotations

from functools import partial

import click
from rich import box
from rich.table import Table

from emoguard.cli.bars import Bars, follow
from emoguard.cli.models import ALSO, MODEL, RUNTIME, THREADS
from emoguard.cli.paths import check_out
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import Screen
from emoguard.cli.typed import typed
from emoguard.fit import calibrating, corpora
from emoguard.fit.responses import Sampling
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.probe.calibration import Calibration
from emoguard.probe.certificate import ENOUGH_RESPONSES
from emoguard.probe.probe import Probe
from emoguard.reporttable import printable
from emoguard.runtime.openers import open_speaker


@click.command(short_help="Measure what is ordinary for a model.")
@MODEL
@RUNTIME
@click.option("--probe", required=True, help="A probe file, or the name of a shipped one.")
@click.option("--out", required=True, help="The probe file to write (.safetensors).")
@ALSO
@click.option("--prompts", "prompts_path", help="Neutral prompts, one per line; default: ours.")
@click.option(
    "--responses",
    type=click.IntRange(8),
    default=ENOUGH_RESPONSES,
    show_default=True,
    help="Responses to measure on.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Most tokens per response.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.7,
    show_default=True,
    help="Of the sampling.",
)
@click.option(
    "--system", default="", callback=typed, help="The system prompt that is used in production."
)
@click.option(
    "--language",
    default="en",
    show_default=True,
    help="Language of the prompts: kept with the calibration.",
)
@click.option("--policy", "policy_path", help="Policy whose alarms are to be certified.")
@THREADS
def calibrate(
    path: str,
    runtime: str,
    probe: str,
    out: str,
    also: tuple[str, ...],
    prompts_path: str | None,
    responses: int,
    tokens: int,
    temperature: float,
    system: str,
    language: str,
    policy_path: str | None,
    threads: int | None,
) -> None:
    """Measure a probe on a model's own neutral responses, and certify alarm thresholds.

    The result replaces the calibration of the same model file in the probe; those of others are
    kept. Files named by --also are calibrated on the same responses, which are kept in
    OUT.answers.jsonl as they come: after an interruption the same command goes on where it was.
    """
    check_out("--out", out, ".safetensors")
    policy = Policy.load(policy_path) if policy_path else Policy()
    found, before, _ = open_probe(probe)
    sample = calibrating.NeutralSample(
        corpora.read_prompts(prompts_path) if prompts_path else calibrating.own_prompts(),
        Sampling(tokens, temperature, system, language),
        responses,
        policy.alarms,
    )
    speaker = open_speaker(path, runtime, threads)
    others = [partial(open_speaker, other, threads=threads) for other in also]
    with Bars() as progress:
        calibrations = calibrating.calibrate_files(
            found, before, speaker, others, sample=sample, out=out, progress=follow(progress)
        )
    for each in calibrations:
        _show(found, each, policy, responses)
    Screen().print(
        f"Wrote {out}: give it by --probe, in Python by Guard.load. The responses in "
        f"{out}.answers.jsonl may be deleted.",
        markup=False,
        soft_wrap=True,
    )


def _show(probe: Probe, calibration: Calibration, policy: Policy, wanted: int) -> None:
    guard = Guard(probe, [calibration], policy)
    share = policy.alarms.rate_per_1000_tokens / max(1, len(guard.monitored))
    table = Table(
        title=f"{calibration.identity.quantisation}: {calibration.responses} responses, "
        f"{calibration.tokens:,} tokens; each label may cross its threshold {share:.3g} times per "
        "1,000 tokens",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("label")
    for column in ("threshold (z)", "crossings", "at most, per 1,000 (95 %)"):
        table.add_column(column, justify="right")
    thresholds = guard.site(calibration.identity).thresholds
    for label in guard.labels:
        cells = ("cannot certify" if label in thresholds else "not monitored", "", "")
        if (threshold := thresholds.get(label)) is not None:
            cells = f"{threshold.level:.2f}", str(threshold.crossings), f"{threshold.bound:.3f}"
        table.add_row(printable(label), *cells)
    Screen().print(table)
    if None in thresholds.values():
        advice = calibrating.advice(calibration, wanted, ENOUGH_RESPONSES)
        Screen().print(advice)
