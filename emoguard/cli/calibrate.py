"""`emoguard calibrate`: measures neutral responses of a model and certifies alarm thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import click
from rich import box
from rich.table import Table

from emoguard.cli.bars import Bars, follow
from emoguard.cli.models import ALSO, MODEL, RUNTIME, THREADS, TOKENS
from emoguard.cli.paths import check_out
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import Screen
from emoguard.cli.typed import typed
from emoguard.errors import EmoGuardError
from emoguard.fit import calibrating, corpora
from emoguard.fit.realign import RESPONSES, check_directions, realigned
from emoguard.fit.responses import Sampling
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.probe.calibration import Calibration
from emoguard.probe.certificate import ENOUGH_RESPONSES
from emoguard.probe.probe import Probe
from emoguard.reporttable import printable
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Speaker


@click.command(short_help="Measure what is ordinary for a model.")
@MODEL
@RUNTIME
@click.option("--probe", required=True, help="A probe file, or the name of a shipped one.")
@click.option("--out", required=True, help="The probe file to write (.safetensors).")
@ALSO
@click.option("--prompts", "prompts_path", help="Neutral prompts, one per line; default: ours.")
@click.option(
    "--realign",
    is_flag=True,
    help="Only move zero and scale to a changed model, from a handful of answers; refused if the "
    "probe's directions do not hold on it.",
)
@click.option(
    "--responses",
    type=click.IntRange(8),
    help=f"Responses to measure on; default: {ENOUGH_RESPONSES}, with --realign {RESPONSES}.",
)
@TOKENS
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
    realign: bool,
    responses: int | None,
    tokens: int,
    temperature: float,
    system: str,
    language: str,
    policy_path: str | None,
    threads: int | None,
) -> None:
    """Measure a probe on a model's own neutral responses, and certify alarm thresholds.

    The result replaces the probe's calibration of the same model file; calibrations of other files
    stay. With --realign only zero and scale are measured, for a model that was trained further.
    Files named by --also are calibrated on the same responses. Responses are saved in
    OUT.answers.jsonl along the way: after an interruption, the same command continues.
    """
    check_out("--out", out, ".safetensors")
    policy = Policy.load(policy_path) if policy_path else Policy()
    opened, before, _ = open_probe(probe)
    responses = responses or (RESPONSES if realign else ENOUGH_RESPONSES)
    sample = calibrating.NeutralSample(
        corpora.read_prompts(prompts_path) if prompts_path else calibrating.own_prompts(),
        Sampling(tokens, temperature, system, language),
        responses,
        policy.alarms,
    )
    speaker = open_speaker(path, runtime, threads)
    others = [partial(open_speaker, other, threads=threads) for other in also]
    with Bars() as progress:
        show = follow(progress)
        adjust = _realigning(opened, before, speaker, show) if realign else None
        calibrations = calibrating.calibrate_files(
            opened, before, speaker, others, sample=sample, out=out, progress=show, adjust=adjust
        )
    for each in calibrations:
        if not realign:
            _show(opened, each, policy, responses)
        for caution in each.cautions:
            line = printable(f"Caution: {caution}.")
            Screen(stderr=True).print(line, style="yellow", soft_wrap=True)
    Screen().print(
        f"Wrote {out}: give it by --probe, in Python by Guard.load. The responses in "
        f"{out}.answers.jsonl may be deleted.",
        markup=False,
        soft_wrap=True,
    )


def _realigning(
    probe: Probe, before: Sequence[Calibration], speaker: Speaker, show: calibrating.Progress
) -> Callable[[Calibration], Calibration]:
    """Return a function that realigns the probe's largest calibration to a measured one.

    Raises:
        EmoGuardError: there is no calibration to realign, or the directions do not hold.

    """
    if not before:
        raise EmoGuardError(
            f"{probe.name} has no calibration that could be realigned: leave out --realign"
        )
    calibrating.check_fits(probe, speaker)
    area = check_directions(
        speaker.door, probe, lambda done, size: show("trying the directions", done, size)
    )
    Screen().print(f"The directions hold: mean AUROC {area:.2f} on texts of ours.")
    return partial(realigned, max(before, key=lambda each: each.responses))


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
