"""`emoguard compare`: compares two models of one family, such as base and instruct, on texts."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table

from emoguard.cli.bars import Bars
from emoguard.cli.models import LABELS, THREADS
from emoguard.cli.paths import check_out
from emoguard.cli.reading import readable, unread
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.extras import check_installed
from emoguard.fit import corpora
from emoguard.fit.extraction import SKIP, extract
from emoguard.reporttable import printable
from emoguard.runtime.openers import open_speaker
from emoguard.study import compareplot
from emoguard.study.compare import check, check_pair
from emoguard.study.compare import compare as measure
from emoguard.study.comparison import ModelComparison, Paired, Read
from emoguard.validate.card import two
from emoguard.validate.carddata import plain
from emoguard.validate.judged import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emoguard.probe.identity import ModelIdentity
    from emoguard.probe.residuals import Residuals

APART = "*"
"""Marks a difference whose interval leaves out 0."""


@click.command(short_help="Compare two models of one family.")
@click.argument("a")
@click.argument("b")
@click.option("--corpus", help="JSON lines with emotion, topic, text; default: the package's own.")
@click.option("--neutral", help="JSON lines with text; default: the package's own.")
@LABELS
@click.option(
    "--layer",
    "layers",
    multiple=True,
    type=click.IntRange(0),
    help="A layer to compare at, repeat for several; default: the best four of both.",
)
@click.option(
    "--most", type=click.IntRange(1), default=72, show_default=True, help="Texts per label."
)
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=SKIP,
    show_default=True,
    help="Leading tokens to leave out.",
)
@click.option(
    "--residuals",
    default="compare.residuals",
    show_default=True,
    help="Folder to keep residuals in, one part per model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--png", help="Draw a picture into this file.")
@THREADS
def compare(
    *,
    a: str,
    b: str,
    corpus: str | None,
    neutral: str | None,
    labels_path: str | None,
    layers: tuple[int, ...],
    most: int,
    skip: int,
    residuals: str,
    as_json: bool,
    png: str | None,
    threads: int | None,
) -> None:
    """Compare models A and B on the same texts.

    Prints how well each separates the labels, whether their directions agree, and where valence
    lies. One model is in memory at a time. Residuals are saved along the way: after an
    interruption, the same command continues.
    """
    _check_options(png)
    labels = corpora.read_labels(labels_path)
    labelled = _labelled(corpus, labels, most)
    texts = _Corpus(labelled, corpora.read(neutral or corpora.own_neutral()))
    # B is opened twice: models that cannot be compared are refused before hours of reading A.
    texts, before = _look(b, texts, threads)
    task = Task(tuple(n.name for n in labels), tuple(n.valence for n in labels))
    # The last block is never read.
    check(task, unread(b, texts.labelled), before.identity.layers - 1, layers)
    with Bars() as progress:
        reader = _Reader(texts, Path(residuals), skip, threads, progress)
        sides = reader.read(a, before), reader.read(b, None)
        bar = progress.add_task("computing", total=None)
        comparison = measure(
            task,
            *sides,
            layers=layers,
            progress=lambda what: progress.update(bar, description=what),
        )
        progress.remove_task(bar)
    if as_json:
        click.echo(json.dumps(plain(comparison), indent=2))
    else:
        _print(comparison)
    if png:
        compareplot.draw(comparison, Path(png))


@dataclass(frozen=True)
class _Corpus:
    """The texts that both models read."""

    labelled: Sequence[corpora.Text]
    neutral: Sequence[corpora.Text]

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.labelled]


@dataclass(frozen=True)
class _Looked:
    """A model's identity and its tokens of the texts, before it reads any text."""

    identity: ModelIdentity
    tokens: list[list[int]]


@dataclass(frozen=True)
class _Reader:
    """Reads the texts with one model after the other."""

    corpus: _Corpus
    folder: Path
    skip: int
    threads: int | None
    progress: Bars

    def read(self, path: str, other: _Looked | None) -> Read:
        """Read all texts with the model at `path`, which must fit `other`."""
        door = open_speaker(path, threads=self.threads).door
        if other is not None:
            mine = _describe(door, self.corpus)
            check_pair(
                mine.identity, other.identity, self.corpus.texts, (mine.tokens, other.tokens)
            )
        labelled = self.corpus.labelled
        states = self._extract(door, path, "corpus-0", labelled)
        neutral = self._extract(door, path, "neutral", self.corpus.neutral)
        del door
        gc.collect()  # models hold cycles, and the next one needs the room
        return Read(replace(unread(path, labelled), residuals=states), neutral)

    def _extract(
        self, door: Residuals, path: str, part: str, texts: Sequence[corpora.Text]
    ) -> NDArray[np.float32]:
        bar = self.progress.add_task(f"{Path(path).name[:14]}: {part}", total=len(texts))
        return extract(
            door,
            [t.text for t in texts],
            self.folder / _own_folder(path) / part,
            skip=self.skip,
            progress=lambda done: self.progress.update(bar, completed=done),
        )


def _look(path: str, corpus: _Corpus, threads: int | None) -> tuple[_Corpus, _Looked]:
    """Return the texts that a model can read, with its identity and its tokens of them."""
    door = open_speaker(path, threads=threads).door
    corpus = _Corpus(readable(door, corpus.labelled), readable(door, corpus.neutral))
    description = _describe(door, corpus)
    del door
    gc.collect()
    return corpus, description


def _describe(door: Residuals, corpus: _Corpus) -> _Looked:
    return _Looked(door.identity, [door.tokenize(text) for text in corpus.texts])


def _own_folder(path: str) -> str:
    """Return a folder name that is unique to this path.

    An identity covers only a part of a file's weights: two fine-tunings may differ elsewhere.
    """
    place = Path(path).resolve()
    return f"{place.stem}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _labelled(corpus: str | None, labels: Sequence[corpora.Label], most: int) -> list[corpora.Text]:
    """Return the texts of all labels.

    Raises:
        EmoGuardError: a label has none.

    """
    path = corpus or str(corpora.own_stories())
    texts = corpora.balanced(corpora.read(path, labels), most)
    missing = [each for each in labels if all(t.label != each.name for t in texts)]
    if missing:
        listed = "; ".join(f"{each.name} ({' or '.join(each.words)})" for each in missing)
        raise EmoGuardError(
            f"{path} has no texts of {listed}: give another corpus, or its labels by --labels"
        )
    return texts


def _check_options(png: str | None) -> None:
    check_installed("comparing", "sklearn", "vaderSentiment", *(["matplotlib"] if png else []))
    if png:
        check_out("--png", png, ".png")


def _print(comparison: ModelComparison) -> None:
    console = Screen()
    names = f"A: {comparison.a}\nB: {comparison.b}"
    console.print(printable(names), style="bold", markup=False, soft_wrap=True)
    console.print(
        f"{comparison.texts} texts of {len(comparison.labels)} labels, {comparison.topics} topics; "
        f"layers {', '.join(map(str, comparison.layers))}; "
        "95 % intervals (paired bootstrap over topics).\n",
        markup=False,
    )
    columns = ("label", "AUROC, A", "AUROC, B", "B - A", "text alone", "cosine", "ceiling")
    rows = [
        (name, *_cells(each)[:4], str(comparison.cosines[name]), two(comparison.ceilings[name]))
        for name, each in comparison.separation.items()
    ]
    mean = (
        "labels, mean",
        *_cells(comparison.macro)[:4],
        str(comparison.cosine),
        two(comparison.ceiling),
    )
    chance = ("chance", ".50", ".50", "0", ".50", f"below {comparison.cosine_chance:.2f}", "")
    _show(console, "Each label against all others, topics held out", columns, [*rows, mean, chance])
    _show(
        console,
        "Valence among the principal components of the directions",
        ("", "A", "B", "B - A", "word counts", "chance, below"),
        list(_valence_rows(comparison)),
    )
    angles = ", ".join(f"{angle.value:.0f}" for angle in comparison.angles)
    console.print(
        f"Subspaces of the labels: overlap {comparison.overlap} (shuffled labels: below "
        f"{comparison.overlap_chance:.2f}); principal angles {angles} degrees.",
        markup=False,
    )
    layers = ", ".join(f"{n} {each.value:.3f}" for n, each in enumerate(comparison.by_layer))
    console.print(f"Mean cosine by layer: {layers}.", markup=False)
    console.print(
        f"\n{APART}: the interval leaves out 0; of 20 such intervals one does so for nothing. "
        "Text alone: the best of TF-IDF and VADER; word counts: TF-IDF. The same for both models.\n"
        "Cosine: of A's and B's direction; noise lowers it and the overlap, and the intervals are "
        "of what they are without noise (basic bootstrap). Ceiling: the cosine that equal "
        "directions would have under noise of this size, from halves of the topics; both read the "
        "same texts, share part of the noise, and may lie above. A cosine well below its ceiling, "
        "with an interval that leaves out 1, is more than noise; with ceilings below .8 intervals "
        "are still too low.",
        style="dim",
        markup=False,
    )


def _cells(each: Paired) -> tuple[str, ...]:
    apart = not each.difference.low <= 0 <= each.difference.high
    difference = f"{each.difference}{APART if apart else ''}"
    chance = "" if each.chance is None else f"{each.chance:.2f}"
    return str(each.a), str(each.b), difference, str(each.words), chance


def _valence_rows(comparison: ModelComparison) -> Iterator[tuple[str, ...]]:
    if comparison.valence is not None:
        yield "component that carries it", *_cells(comparison.valence.rank)
        yield "its |r| with valence", *_cells(comparison.valence.strongest)
        yield "its share of variance", *_cells(comparison.valence.share)
        yield "|r| of the first component", *_cells(comparison.valence.first)


def _show(
    console: Screen, title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    console.print(table)
