"""Do the first components of emotion contrast vectors follow valence more than word counts do?

Method. The contrast vector of a label at a layer is the mean residual of its texts minus the mean
over labels, scaled to length 1. Principal components of these vectors are taken at each layer, and
at all layers together (each counting the same, so that no layer is picked by the number reported).
|r| is the correlation of a component's coordinates with the valence ratings below. Beside it: the
same of TF-IDF class means of the same texts, and what 95 % of permutations of the ratings stay
below. Intervals are percentiles of 1,000 resamples of topics, the same draws for model and words,
so that their difference is paired. See docs/evidence/contrast-vectors.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import arguments
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora, geometry
from emoguard.fit.extraction import SKIP, extract
from emoguard.fit.textonly import counted
from emoguard.runtime.openers import open_speaker
from emoguard.validate.carddata import plain
from emoguard.validate.estimate import Estimate, Sample
from emoguard.validate.plots import INK, MUTED, find_pyplot
from emoguard.validate.reading import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VALENCE = {
    "happy": 0.9, "calm": 0.6, "proud": 0.7, "loving": 0.9, "sad": -0.7, "angry": -0.7,
    "hostile": -0.8, "frustrated": -0.5, "afraid": -0.8, "nervous": -0.4, "desperate": -0.9,
    "guilty": -0.6,
}  # fmt: skip
"""How pleasant each label is, from -1 to 1: this project's own guesses, made before any figure was
seen, and not measured on people."""

COMPONENTS = 3


@dataclass(frozen=True)
class Component:
    """One component's |r| with valence: in the model, in word counts, and by chance.

    `share` is the share of the variance it has in the model.
    """

    number: int
    share: float
    model: Estimate
    words: Estimate
    difference: Estimate
    chance: float


@dataclass(frozen=True)
class Result:
    """One model on one corpus. `by_layer` is |r| of each layer's own first component."""

    model: str
    corpus: str
    texts: int
    labels: int
    topics: int
    components: tuple[Component, ...]
    by_layer: tuple[Estimate, ...]


def measure(model: str, texts: Texts) -> Result:
    """Return the components of one model's contrast vectors on one corpus."""
    names = [name for name in VALENCE if name in texts.labels]
    ratings = np.array([VALENCE[name] for name in names])
    weights = geometry.all_and_resampled(texts.labels, texts.clusters, names)

    def gram(states: NDArray[Any]) -> NDArray[np.float64]:
        side = (states.astype(np.float64), texts.labels)
        return geometry.products([side], names, weights)[0, 0]

    layers = [gram(texts.residuals[:, n]) for n in range(texts.residuals.shape[1])]
    together = np.mean(layers, axis=0)
    _, vectors = counted(texts.texts)
    return Result(
        model,
        texts.name,
        len(texts),
        len(names),
        len(np.unique(texts.clusters)),
        _components(together, gram(vectors.toarray()), ratings),
        tuple(_correlations(each, ratings).estimate(0) for each in layers),
    )


def _components(
    gram: NDArray[np.float64], words: NDArray[np.float64], ratings: NDArray[np.float64]
) -> tuple[Component, ...]:
    coordinates, shares = geometry.components(gram[:1])
    null = geometry.permuted_correlations(coordinates[0], ratings)
    model, text_only = (_correlations(each, ratings) for each in (gram, words))
    return tuple(
        Component(
            n + 1,
            float(shares[0, n]),
            model.estimate(n),
            text_only.estimate(n),
            (model - text_only).estimate(n),
            float(np.quantile(null[:, n], 0.95)),
        )
        for n in range(min(COMPONENTS, shares.shape[1]))
    )


def _correlations(gram: NDArray[np.float64], ratings: NDArray[np.float64]) -> Sample:
    correlations = geometry.correlations(geometry.components(gram)[0], ratings)
    return Sample(correlations[0], correlations[1:])


def read(door: Any, name: str, path: Path, folder: Path, most: int) -> Texts:
    """Return the texts of a corpus with their residuals, which are kept in `folder`."""
    chosen = corpora.balanced(corpora.read(path, corpora.default_labels()), most)
    texts = [text.text for text in chosen]
    on_terminal = sys.stderr.isatty()

    def progress(done: int) -> None:
        if on_terminal:
            sys.stderr.write(f"\r{door.identity.name}, {name}: {done}/{len(texts)} ")

    states = extract(door, texts, folder, skip=SKIP, progress=progress)
    labels, topics = (np.array([getattr(t, f) for t in chosen]) for f in ("label", "topic"))
    return Texts(name, texts, labels, topics, states)


def show(results: Sequence[Result]) -> None:
    """Print a Markdown table."""
    print("| model | corpus | component (variance) | model | word counts | difference | chance |")
    print("|---|---|---|---|---|---|---|")
    for each in results:
        for c in each.components:
            cells = (each.model, each.corpus, f"{c.number} ({c.share:.0%})", c.model, c.words,
                     c.difference, f"{c.chance:.2f}")  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |")


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw |r| of the first component by layer: a panel per model, a line per corpus."""
    pyplot = find_pyplot()
    models = list(dict.fromkeys(each.model for each in results))
    figure, axes = pyplot.subplots(
        1, len(models), figsize=(5.2 * len(models), 3.6), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, model in zip(axes[0], models, strict=True):
        mine = [each for each in results if each.model == model]
        for each, colour in zip(mine, ("#2c5fb5", "#b5452c", "#1a7f5a", INK), strict=False):
            numbers = range(len(each.by_layer))
            lows, highs = ([getattr(e, side) for e in each.by_layer] for side in ("low", "high"))
            axis.fill_between(numbers, lows, highs, color=colour, alpha=0.15, linewidth=0)
            values = [e.value for e in each.by_layer]
            axis.plot(numbers, values, color=colour, label=each.corpus)
            axis.axhline(each.components[0].words.value, color=colour, linestyle="--", linewidth=1)
        axis.axhline(mine[0].components[0].chance, color=MUTED, linestyle=":", linewidth=1)
        axis.set_title(model, fontsize=10)
        axis.set_xlabel("layer (dashed: word counts, dotted: chance)")
        axis.set_ylim(0, 1)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_ylabel("|r| of the first component with valence")
    axes[0][0].legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"wanted NAME=PATH, got {text!r}")
    return name, Path(path)


def main() -> int:
    """Print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=_named, action="append", required=True, metavar="NAME=PATH")
    parser.add_argument(
        "--corpus", type=_named, action="append", metavar="NAME=PATH", help="default: our own"
    )
    parser.add_argument("--residuals", type=Path, default=Path("contrast.residuals"))
    parser.add_argument("--most", type=int, default=72, help="texts per label and corpus")
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    texts = options.corpus or [("own", corpora.own_stories())]
    results = []
    try:
        for model, path in options.model:
            door = open_speaker(path).door
            for name, corpus in texts:
                folder = options.residuals / model / name
                results.append(measure(model, read(door, name, corpus, folder, options.most)))
    except EmoGuardError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.json:
        print(json.dumps([plain(asdict(each)) for each in results]))
    else:
        show(results)
    if options.png:
        draw(results, options.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
