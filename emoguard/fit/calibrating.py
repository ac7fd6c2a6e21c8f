"""Calibrates a probe on the responses of one model file, for it and others of the same weights.

Progress is saved along the way: each response in a work file, the probe after each model file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emoguard.errors import EmoGuardError
from emoguard.fit import answers, corpora, store
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
"""Called with the name of a task, the part of it that is done, and its size."""

Open = Callable[[], Speaker]
"""Opens a model file when its turn comes: several at a time may not fit the memory."""


FOREIGN = 0.2
"""Share of answers in another language than their prompts from which a caution is due."""


@dataclass(frozen=True)
class NeutralSample:
    """The responses to calibrate on: `wanted` of them at least as long as the alarm window.

    Raises:
        EmoGuardError: the token limit is below the alarm window.

    """

    prompts: Sequence[str]
    sampling: Sampling
    wanted: int
    alarms: AlarmPolicy

    def __post_init__(self) -> None:
        if self.sampling.tokens < self.alarms.window_tokens:
            raise EmoGuardError(
                f"--tokens must be at least the {self.alarms.window_tokens} of the alarm window, "
                f"got {self.sampling.tokens}"
            )

    def context(self, speaker: Speaker) -> dict[str, str]:
        """Return everything but the model file that the responses depend on."""
        return self.sampling.context(speaker.door.identity.template, self.prompts)


def answer_file(out: str) -> str:
    """Return the path of the work file that holds the answers for the probe file `out`."""
    return f"{out}.answers.jsonl"


def begun(speaker: Speaker, sample: NeutralSample, out: str) -> int:
    """Return the number of responses that an earlier run left beside the probe file `out`.

    Raises:
        EmoGuardError: the work file there belongs to another model, sampling or list of prompts.

    """
    return answers.begun(speaker, sample.prompts, sample.sampling, answer_file(out))


def own_prompts() -> list[str]:
    """Return the package's prompts for calibrations."""
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
    """Calibrate the probe on responses of `speaker`, for it and for `others`, which read them too.

    After each file the probe is written to `out` with the calibrations so far, each passed through
    `adjust`; they replace those in `before` that belong to the same files.

    Raises:
        EmoGuardError: the probe does not fit one of the files. Raised before the first response.

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
        # Reading can take an hour: a failure in the next file must not lose this calibration.
        artifact.save(out, probe, replaced(before, calibrations))
    store.remove(f"{out}.readings")
    return calibrations


def check_fits(probe: Probe, speaker: Speaker) -> None:
    """Raise if the probe was not made for this model, or the model numbers its layers otherwise.

    Raises:
        EmoGuardError: the probe does not fit; the message names the difference.

    """
    probe.check_fits(speaker.door.identity)
    probe.witness.check(speaker.door, probe.layers)


def replaced(before: Sequence[Calibration], new: Sequence[Calibration]) -> list[Calibration]:
    """Return `before` without calibrations of the files in `new`, followed by `new`."""
    kept = [c for c in before if not any(c.identity.matches(each.identity) for each in new)]
    return [*kept, *new]


def respond(
    speaker: Speaker, sample: NeutralSample, out: str, progress: Progress
) -> list[Generated]:
    """Return responses until enough of them fill the alarm window, or the prompts run out.

    Responses in the work file beside `out` are used again.

    Raises:
        EmoGuardError: the work file holds anything else.

    """
    shortest = max(sample.alarms.window_tokens, SHORTEST)

    def enough(generated: list[Generated]) -> bool:
        whole = sum(len(each.token_ids) >= shortest for each in generated)
        progress("responding", min(whole, sample.wanted), sample.wanted)
        return whole >= sample.wanted

    return answers.answered(speaker, sample.prompts, sample.sampling, answer_file(out), enough)


def cautions(speaker: Speaker, generated: Sequence[Generated], sample: NeutralSample) -> list[str]:
    """Return reasons to doubt a calibration on these responses, one sentence each."""
    sentences = []
    whole = sum(len(each.token_ids) >= sample.alarms.window_tokens for each in generated)
    if whole < ENOUGH_RESPONSES:
        sentences.append(
            f"few answers ({whole} as long as the alarm window, {ENOUGH_RESPONSES} are needed): no "
            "alarm can be certified, and ranks and scales are rough"
        )
    if not speaker.has_template:
        sentences.append(
            "the model has no chat template: it was measured continuing prompts, not answering"
        )
    texts = [speaker.decode(each.token_ids) for each in generated]
    share = strangers(sample.prompts, texts)
    if share is not None and share > FOREIGN:
        sentences.append(
            f"{share:.0%} of the model's answers are not in the language of the prompts "
            f"({sample.sampling.language}): what is ordinary was measured on them; give --prompts "
            "in a language the model answers in"
        )
    return sentences


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

    Readings are saved beside `out` along the way; `doubts` become the calibration's cautions.
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
    """Return advice on certifying more labels, in options of the command line.

    `wanted` responses were requested; a certificate takes `enough`.
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
