"""Writes the page of a new probe, with example answers and commands for the next steps."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from emoguard import keptfile
from emoguard.errors import EmoGuardError
from emoguard.fit import examples as asking
from emoguard.fit import page
from emoguard.fit.calibrating import Progress
from emoguard.fit.examples import ExamplePrompt
from emoguard.fit.page import Example, Step
from emoguard.guard import Guard
from emoguard.probe.calibration import Calibration
from emoguard.probe.probe import Probe
from emoguard.runtime.openers import AUTO
from emoguard.runtime.pieces import split
from emoguard.runtime.speaker import Speaker


def write_page(
    out: str,
    speaker: Speaker,
    *,
    model: str,
    runtime: str,
    example_prompts: Sequence[ExamplePrompt],
    most: int,
    texts: Sequence[str],
    finish: str | None,
    progress: Progress,
) -> tuple[Path, Guard]:
    """Write the page of the probe file `out` beside it; return its path, and a guard of the probe.

    The first `most` of `example_prompts` become examples. `texts` are the options that name texts
    of the user's own; `finish` is the command that finishes a provisional probe.

    Raises:
        EmoGuardError: the page cannot be written.

    """
    guard = Guard.load(Path(out))
    identity = speaker.door.identity
    calibration = guard.calibration(identity)
    assert calibration is not None  # made a moment ago
    generated = asking.answers(speaker, example_prompts, most, out, progress)
    readout = guard.probe.fold(calibration)
    axes = [*guard.probe.axes, *guard.probe.labels]
    examples = [
        Example(
            each.prompt,
            split(speaker.decode, answer.token_ids),
            readout.read(answer.residuals(speaker.door, guard.probe.layers)),
            each.label or axes[0],
        )
        for each, answer in zip(example_prompts[: len(generated)], generated, strict=True)
        if answer.token_ids
    ]
    place = page_of(out)
    whole = page.html(
        guard.probe,
        calibration,
        thresholds=guard.site(identity).thresholds,
        cautions=(*guard.probe.cautions, *calibration.cautions),
        facts=_facts(guard.probe, calibration, out),
        examples=examples,
        steps=_steps(model, out, runtime, texts, finish),
    )
    try:
        keptfile.replace(place, whole)
    except OSError as error:
        raise EmoGuardError(f"the page {place} cannot be written: {error.strerror}") from error
    return place, guard


def page_of(out: str) -> Path:
    """Return the path of a probe file's page."""
    return Path(out).with_suffix(".html")


def _facts(probe: Probe, calibration: Calibration, out: str) -> Mapping[str, str]:
    recipe = probe.recipe
    corpora = " + ".join(map(str, recipe["texts"]))
    return {
        "file": f"{Path(out).name}, {Path(out).stat().st_size // 1024:,} KiB",
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(calibration.created)),
        "model": f"{probe.architecture}, {probe.model_layers} layers of {probe.hidden}, read in "
        f"{recipe['quantisation']}",
        "labels": f"{len(probe.labels)}: {', '.join(probe.labels)}",
        "texts": f"{corpora} about emotions, {recipe['neutral_texts']} neutral; "
        f"{', '.join(recipe['sources'])}",
        "answers": f"{calibration.responses}, {calibration.tokens:,} tokens, to prompts in "
        f"{calibration.context['language']}",
    }


def _steps(
    model: str, out: str, runtime: str, texts: Sequence[str], finish: str | None
) -> list[Step]:
    engine = [] if runtime == AUTO else ["--runtime", runtime]
    stem = str(Path(out).with_suffix(""))

    def step(text: str, verb: str, *more: str) -> Step:
        whole = ["emoguard", verb, "--model", model, *engine, "--probe", out, *more]
        return Step(text, shlex.join(whole))

    steps = [
        step("Watch it answer, every token in the colour of its score:", "run", "My dog died."),
        step(
            "Judge it on the model's own answers, too, and on corpora of yours (--corpus):",
            "validate",
            "--card",
            f"{stem}-card",
            "--out",
            f"{stem}-judged.safetensors",
            *texts,
        ),
        step(
            "Calibrate it for your prompts, your system prompt, your quantisation:",
            "calibrate",
            "--prompts",
            "PROMPTS.txt",
            "--system",
            "SYSTEM PROMPT",
            "--out",
            f"{stem}-mine.safetensors",
        ),
    ]
    if runtime == AUTO:
        steps.append(step("Serve the model, watched, with a live page:", "serve", "--page"))
        steps.append(step("After you changed the model: does the probe still fit?", "doctor"))
    return [*([Step("Finish it: nothing slow is done twice.", finish)] if finish else []), *steps]
