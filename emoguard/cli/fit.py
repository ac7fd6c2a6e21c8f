"""`emoguard fit`: make a probe file for a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emoguard import artifact
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.recipe import fit as make_probe
from emoguard.fit.responses import Answer, calibrate, llamacpp_answers, transformers_answers
from emoguard.registry import find


@click.command()
@click.option("--model", "path", required=True, help="A GGUF file or a Transformers folder.")
@click.option(
    "--corpus",
    "corpus_paths",
    required=True,
    multiple=True,
    help="JSON lines with emotion, topic, text. Repeat for several; each counts the same.",
)
@click.option(
    "--neutral",
    "neutral_paths",
    required=True,
    multiple=True,
    help="JSON lines with text, without emotion. Repeat for several.",
)
@click.option("--out", required=True, help="The probe file to write (.safetensors).")
@click.option("--name", default="", help="Name of the probe; default: the model's.")
@click.option(
    "--also",
    multiple=True,
    help="Another file of the same weights (a quantisation, a Transformers folder) to calibrate.",
)
@click.option("--most", default=60, show_default=True, help="Texts per label and corpus.")
@click.option("--skip", default=20, show_default=True, help="Leading tokens to leave out.")
@click.option("--layers", default="", help="Layers to read, e.g. 14,18; default: the best four.")
@click.option("--answers", default=200, show_default=True, help="Neutral answers to calibrate on.")
@click.option("--tokens", default=64, show_default=True, help="Tokens per answer.")
@click.option("--source", multiple=True, help="A line of attribution for the card.")
def fit(
    path: str,
    corpus_paths: tuple[str, ...],
    neutral_paths: tuple[str, ...],
    out: str,
    name: str,
    also: tuple[str, ...],
    most: int,
    skip: int,
    layers: str,
    answers: int,
    tokens: int,
    source: tuple[str, ...],
) -> None:
    """Make a probe file: directions from corpora, calibration from the model's own answers."""
    if Path(out).suffix != ".safetensors":
        raise EmoGuardError(f"--out must end in .safetensors, got {out}")
    labels = corpora.default_labels()
    texts = [corpora.balanced(corpora.read(p, labels), most) for p in corpus_paths]
    neutral = [text for p in neutral_paths for text in corpora.read(p)]
    model, tokenizer = _open(path)
    door = _door(model, tokenizer)
    with _progress() as progress:
        bar = progress.add_task("reading texts", total=len(neutral) + sum(map(len, texts)))
        probe = make_probe(
            door,
            texts,
            neutral,
            labels,
            name=name or door.identity.name,
            layers=_numbers(layers),
            skip=skip,
            progress=lambda done: progress.update(bar, completed=done),
            sources=source or corpus_paths,
        )
        prompts = corpora.prompts(neutral)[:answers]
        said = _answers(model, tokenizer, prompts, tokens, progress)
        context = {"prompts": f"{len(prompts)} neutral texts", "tokens": str(tokens), "system": ""}
        calibrations = []
        for other in (None, *also):
            if other is not None:
                door = _door(*_open(other))
            bar = progress.add_task(f"calibrating {door.identity.quantisation}", total=len(said))
            calibrations.append(
                calibrate(
                    door,
                    probe,
                    said,
                    context=context,
                    progress=lambda done, bar=bar: progress.update(bar, completed=done),  # type: ignore[misc]
                )
            )
    artifact.save(out, probe, calibrations)
    Console().print(
        f"Wrote {out}: {len(probe.labels)} labels at layers {', '.join(map(str, probe.layers))}, "
        f"calibrated on {calibrations[0].responses} answers. Look at it with: emoguard show {out}"
    )


def _open(path: str) -> tuple[Any, Any]:
    """Return (model, tokenizer); a `llama_cpp.Llama` brings its own and has None."""
    from emoguard.cli.models import load

    return load(path)


def _door(model: Any, tokenizer: Any) -> Any:
    options = {} if tokenizer is None else {"tokenizer": tokenizer}
    plugin, inner = find(model)
    return plugin.open_residuals(inner, **options)


def _answers(
    model: Any, tokenizer: Any, prompts: list[str], tokens: int, progress: Progress
) -> list[Answer]:
    source = (
        llamacpp_answers(model, prompts, tokens=tokens)
        if tokenizer is None
        else transformers_answers(model, tokenizer, prompts, tokens=tokens)
    )
    return list(progress.track(source, total=len(prompts), description="neutral answers"))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _numbers(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise EmoGuardError(f"--layers takes numbers such as 14,18, got {text!r}") from None
