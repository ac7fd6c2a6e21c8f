"""`emoguard calibrate`: what is ordinary for a model file, and from where on alarms are rare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from rich import box
from rich.table import Table

from emoguard.cli.bars import Bars
from emoguard.cli.models import RUNTIME, Runtime, load
from emoguard.cli.paths import check_out
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import Screen, printable, say
from emoguard.cli.typed import typed
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.answers import AnswerFile
from emoguard.fit.extraction import SHORTEST as FEWEST_TOKENS
from emoguard.fit.extraction import readable
from emoguard.fit.responses import SHORTEST, Answer, Sampling, answers
from emoguard.fit.responses import calibrate as measure
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.probe import artifact
from emoguard.probe.calibration import Calibration
from emoguard.probe.certificate import ENOUGH_RESPONSES
from emoguard.probe.probe import Probe
from emoguard.runtime.attach import find
from emoguard.sinks.policy import AlarmPolicy


@dataclass(frozen=True)
class Opened:
    """A model, its tokenizer (None for llama.cpp) and the offline door into it."""

    model: Any
    tokenizer: Any
    door: Any

    @classmethod
    def load(cls, path: str, threads: int | None = None, runtime: Runtime = "auto") -> Opened:
        """Open a GGUF file or a Transformers folder."""
        model, tokenizer = load(path, runtime, threads)
        options = {} if tokenizer is None else {"tokenizer": tokenizer}
        plugin, inner = find(model)
        return cls(model, tokenizer, plugin.open_residuals(inner, **options))

    def readable(self, texts: Sequence[corpora.Text]) -> list[corpora.Text]:
        """Return the texts that are long enough to be read; say which are not."""
        found = readable(self.door, texts)
        if len(found) < len(texts):
            kept = set(map(id, found))
            first = next(text for text in texts if id(text) not in kept)
            say(
                f"Left out {len(texts) - len(found):,} of {len(texts):,} texts, which have fewer "
                f"than {FEWEST_TOKENS} tokens: the first at {first.place}.",
                err=True,
            )
        return found


@click.command(short_help="Measure what is ordinary for a model.")
@click.option("--model", "path", required=True, help="A GGUF file or a Transformers folder.")
@RUNTIME
@click.option("--probe", required=True, help="A probe file, or the name of a shipped one.")
@click.option("--out", required=True, help="The probe file to write (.safetensors).")
@click.option(
    "--also",
    multiple=True,
    help="Another file of the same weights (a quantisation, a Transformers folder) to calibrate.",
)
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
@click.option("--threads", type=click.IntRange(1), help="Of llama.cpp; default: its own choice.")
def calibrate(
    path: str,
    runtime: Runtime,
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
    asked = Asked(
        corpora.read_prompts(prompts_path) if prompts_path else calibrating_prompts(),
        Sampling(tokens, temperature, system, language),
        responses,
        policy.alarms,
    )
    opened = Opened.load(path, threads, runtime)
    others = [partial(Opened.load, given, threads) for given in also]
    with Bars() as progress:
        made = calibrate_files(found, before, opened, others, asked, out, progress)
    for each in made:
        _show(found, each, policy, responses)
    Screen().print(
        f"Wrote {out}: give it by --probe, in Python by Guard.load. The responses in "
        f"{out}.answers.jsonl may be deleted.",
        markup=False,
        soft_wrap=True,
    )


@dataclass(frozen=True)
class Asked:
    """What a model is asked to calibrate on: `wanted` answers at least as long as the window."""

    prompts: Sequence[str]
    sampling: Sampling
    wanted: int
    alarms: AlarmPolicy


def calibrate_files(
    probe: Probe,
    before: Sequence[Calibration],
    speaker: Opened,
    others: Sequence[Callable[[], Opened]],
    asked: Asked,
    out: str,
    progress: Bars,
) -> list[Calibration]:
    """Let `speaker` answer; measure the probe on it and on `others`, which read the same answers.

    The probe is written to `out` after each of them, with what was measured so far in place of the
    calibrations `before` of the same files.

    Raises:
        EmoGuardError: a file the probe was not made for, said before the first answer.

    """
    for opener in (lambda: speaker, *others):
        check(probe, opener())
    said = respond(speaker, asked, out, progress)
    made: list[Calibration] = []
    # Each is opened again for its turn: several models at a time may not fit the memory.
    for opener in (lambda: speaker, *others):
        made.append(read(opener(), probe, said, asked, progress))
        # Reading can take an hour: what was measured is not lost with the next file.
        artifact.save(out, probe, replaced(before, made))
    return made


def check(probe: Probe, opened: Opened) -> None:
    """Refuse a model that the probe was not made for, or whose layers are numbered otherwise.

    Raises:
        EmoGuardError: saying what does not fit.

    """
    probe.check_fits(opened.door.identity)
    probe.witness.check(opened.door, probe.layers)


def replaced(before: Sequence[Calibration], made: Sequence[Calibration]) -> list[Calibration]:
    """Return calibrations with those of the same model files replaced."""
    kept = [c for c in before if not any(c.identity.matches(m.identity) for m in made)]
    return [*kept, *made]


def calibrating_prompts() -> list[str]:
    """Return the package's prompts that calibrations are made on."""
    return corpora.neutral_prompts()[: corpora.CALIBRATING]


def respond(opened: Opened, asked: Asked, out: str, progress: Bars) -> list[Answer]:
    """Return the model's answers; as many as wanted are as long as the window, if prompts allow.

    Those in the work file beside `out` are taken from there.

    Raises:
        EmoGuardError: no answer could be as long as the window; a work file of something else.

    """
    sampling, window = asked.sampling, asked.alarms.window_tokens
    if sampling.tokens < window:
        raise EmoGuardError(
            f"--tokens must be at least the {window} of the alarm window, got {sampling.tokens}"
        )
    bar = progress.add_task("responding", total=asked.wanted)

    def enough(said: list[Answer]) -> bool:
        whole = sum(len(answer.token_ids) >= max(window, SHORTEST) for answer in said)
        progress.update(bar, completed=whole)
        return whole >= asked.wanted

    identity = opened.door.identity
    bound = {"model": identity.digest, **sampling.context(identity.template, asked.prompts)}

    def made(start: int) -> Iterator[Answer]:
        return answers(opened.model, opened.tokenizer, asked.prompts, sampling, start=start)

    with closing(AnswerFile(f"{out}.answers.jsonl", bound)) as file:
        file.extend(made, enough)
    return file.answers


def read(
    opened: Opened, probe: Probe, said: Sequence[Answer], asked: Asked, progress: Bars
) -> Calibration:
    """Measure `probe` on the answers, as the model behind `opened` reads them."""
    identity = opened.door.identity
    bar = progress.add_task(f"reading {identity.quantisation}", total=len(said))
    return measure(
        opened.door,
        probe,
        said,
        context=asked.sampling.context(identity.template, asked.prompts),
        window=asked.alarms.window_tokens,
        hysteresis=asked.alarms.hysteresis_sd,
        progress=lambda done: progress.update(bar, completed=done),
    )


def _show(probe: Probe, made: Calibration, policy: Policy, wanted: int) -> None:
    guard = Guard(probe, [made], policy)
    share = policy.alarms.rate_per_1000_tokens / max(1, len(guard.monitored))
    table = Table(
        title=f"{made.identity.quantisation}: {made.responses} responses, {made.tokens:,} tokens; "
        f"each label may cross its threshold {share:.3g} times per 1,000 tokens",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("label")
    for column in ("threshold (z)", "crossings", "at most, per 1,000 (95 %)"):
        table.add_column(column, justify="right")
    thresholds = guard.site(made.identity).thresholds
    for label in guard.labels:
        cells = ("cannot certify" if label in thresholds else "not monitored", "", "")
        if (threshold := thresholds.get(label)) is not None:
            cells = f"{threshold.level:.2f}", str(threshold.crossings), f"{threshold.bound:.3f}"
        table.add_row(printable(label), *cells)
    Screen().print(table)
    if None in thresholds.values():
        Screen().print(_advice(made, wanted))


def _advice(made: Calibration, wanted: int) -> str:
    """Say what would certify more labels; `wanted` is how many responses were asked for."""
    whole = made.curve.responses if made.curve else 0
    if whole < ENOUGH_RESPONSES:
        # Fewer than wanted: the prompts ran out before so many answers were long enough.
        few = wanted < ENOUGH_RESPONSES
        more = f"give --responses {ENOUGH_RESPONSES}" if few else "give more prompts by --prompts"
        return (
            f"A certificate needs {ENOUGH_RESPONSES} responses as long as the alarm window, got "
            f"{whole}: {more}. Until then crossings are null in reports."
        )
    return (
        "Labels that cannot be certified have crossings null in reports: give more --responses or "
        "--tokens, or allow a higher rate_per_1000_tokens."
    )
