"""Calibrates a probe on model files: one responds, it and others of the same weights are measured.

What is slow is kept as it comes: responses in a work file, the probe after each file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emoguard.errors import EmoGuardError
from emoguard.fit import corpora, store
from emoguard.fit.answers import answered
from emoguard.fit.languages import strangers
from emoguard.fit.responses import SHORTEST, Sampling
from emoguard.fit.responses import calibrate as measure
from emoguard.probe import artifact
from emoguard.probe.calibration import Calibration
from emoguard.probe.certificate import ENOUGH_RESPONSES
from emoguard.probe.probe import Probe
from emoguard.runtime.speaker import Generated, Speaker
from emoguard.sinks.policy import AlarmPolicy

Progress = Callable[[str, int, int], None]
"""Takes a task in words, how much of it is done, and its size."""

Open = Callable[[], Speaker]
"""Opens a model file when its turn comes: several at a time may not fit the memory."""


FOREIGN = 0.2
"""Share of answers in another language than their prompts from which a caution is due."""


@dataclass(frozen=True)
class NeutralSample:
    """The responses to calibrate on: `wanted` of them at least as long as the alarm window."""

    prompts: Sequence[str]
    sampling: Sampling
    wanted: int
    alarms: AlarmPolicy

    def context(self, speaker: Speaker) -> dict[str, str]:
        """Return what the responses depend on beside the model file."""
        return self.sampling.context(speaker.door.identity.template, self.prompts)


def answer_file(out: str) -> str:
    """Return where the answers for the probe file `out` are kept while it is made."""
    return f"{out}.answers.jsonl"


def own_prompts() -> list[str]:
    """Return the package's prompts that calibrations are made on."""
    return corpora.neutral_prompts()[: corpora.CALIBRATING]


def calibrate_files(
    probe: Probe,
    before: Sequence[Calibration],
    speaker: Speaker,
    others: Sequence[Open],
    *,
    sample: NeutralSample,
    out: str,
    progress: Progress,
    adjust: Callable[[Calibration], Calibration] | None = None,
) -> list[Calibration]:
    """Let `speaker` respond; measure the probe on it and on `others`, which read the same.

    The probe is written to `out` after each of them, with what was measured so far in place of the
    calibrations `before` of the same files, each as `adjust` returns it.

    Raises:
        EmoGuardError: a file the probe was not made for, before the first response.

    """
    for opener in (lambda: speaker, *others):
        check_fits(probe, opener())
    generated = respond(speaker, sample, out, progress)
    doubts = cautions(speaker, generated, sample)
    calibrations: list[Calibration] = []
    for opener in (lambda: speaker, *others):
        measured = read(
            opener(), probe, generated, sample, out=out, progress=progress, doubts=doubts
        )
        calibrations.append(adjust(measured) if adjust else measured)
        # Reading can take an hour: what was measured is not lost with the next file.
        artifact.save(out, probe, replaced(before, calibrations))
    store.remove(f"{out}.readings")
    return calibrations


def check_fits(probe: Probe, speaker: Speaker) -> None:
    """Refuse a model that the probe was not made for, or whose layers are numbered otherwise.

    Raises:
        EmoGuardError: saying what does not fit.

    """
    probe.check_fits(speaker.door.identity)
    probe.witness.check(speaker.door, probe.layers)


def replaced(before: Sequence[Calibration], new: Sequence[Calibration]) -> list[Calibration]:
    """Return calibrations with those of the same model files replaced."""
    kept = [c for c in before if not any(c.identity.matches(each.identity) for each in new)]
    return [*kept, *new]


def respond(
    speaker: Speaker, sample: NeutralSample, out: str, progress: Progress
) -> list[Generated]:
    """Return responses; as many as wanted are as long as the window, if there are enough prompts.

    Those in the work file beside `out` are taken from there.

    Raises:
        EmoGuardError: no response could be as long as the window; a work file of something else.

    """
    window = sample.alarms.window_tokens
    if sample.sampling.tokens < window:
        raise EmoGuardError(
            f"--tokens must be at least the {window} of the alarm window, "
            f"got {sample.sampling.tokens}"
        )

    def enough(generated: list[Generated]) -> bool:
        whole = sum(len(each.token_ids) >= max(window, SHORTEST) for each in generated)
        progress("responding", min(whole, sample.wanted), sample.wanted)
        return whole >= sample.wanted

    return answered(speaker, sample.prompts, sample.sampling, answer_file(out), enough)


def cautions(speaker: Speaker, generated: Sequence[Generated], sample: NeutralSample) -> list[str]:
    """Return reasons to doubt what is measured on these responses, one sentence each."""
    found = []
    whole = sum(len(each.token_ids) >= sample.alarms.window_tokens for each in generated)
    if whole < ENOUGH_RESPONSES:
        found.append(
            f"few answers ({whole} as long as the alarm window, {ENOUGH_RESPONSES} are needed): no "
            "alarm can be certified, and ranks and scales are rough"
        )
    if not speaker.has_template:
        found.append(
            "the model has no chat template: it was measured continuing prompts, not answering"
        )
    answers = [speaker.decode(each.token_ids) for each in generated]
    share = strangers(sample.prompts, answers)
    if share is not None and share > FOREIGN:
        found.append(
            f"{share:.0%} of the model's answers are not in the language of the prompts "
            f"({sample.sampling.language}): what is ordinary was measured on them; give --prompts "
            "in a language the model answers in"
        )
    return found


def read(
    speaker: Speaker,
    probe: Probe,
    generated: Sequence[Generated],
    sample: NeutralSample,
    *,
    out: str,
    progress: Progress,
    doubts: Sequence[str] = (),
) -> Calibration:
    """Measure `probe` on responses, as the model behind `speaker` reads them.

    What was read is kept beside `out` as it comes; `doubts` become the calibration's cautions.
    """
    task = f"reading {speaker.door.identity.quantisation}"
    return measure(
        speaker.door,
        probe,
        generated,
        context=sample.context(speaker),
        window=sample.alarms.window_tokens,
        hysteresis=sample.alarms.hysteresis_sd,
        progress=lambda done: progress(task, done, len(generated)),
        folder=f"{out}.readings",
        doubts=doubts,
    )


def advice(calibration: Calibration, wanted: int, enough: int) -> str:
    """Return advice on certifying more labels, after `wanted` responses of the `enough` it takes.

    Options are those of the command line.
    """
    whole = calibration.curve.responses if calibration.curve else 0
    if whole < enough:
        # Fewer than wanted: the prompts ran out before so many responses were long enough.
        more = f"give --responses {enough}" if wanted < enough else "give more prompts by --prompts"
        return (
            f"A certificate needs {enough} responses as long as the alarm window, got "
            f"{whole}: {more}. Until then crossings are null in reports."
        )
    return (
        "Labels that cannot be certified have crossings null in reports: give more --responses or "
        "--tokens, or allow a higher rate_per_1000_tokens."
    )
