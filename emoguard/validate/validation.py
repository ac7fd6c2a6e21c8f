"""Runs the checks of a probe that need only stored residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.fit.recipe import Fitted, Recipe, fit_directions
from emoguard.fit.textonly import TextOnly
from emoguard.records import Verdict
from emoguard.validate.comparison import Comparison, compare
from emoguard.validate.estimate import Estimate, Sample, areas, average, cluster_weights
from emoguard.validate.halves import Halves, halves
from emoguard.validate.human import Family, family_task, in_families
from emoguard.validate.judged import (
    MODEL,
    Judged,
    Task,
    check_crossed,
    having,
    joined,
    judge,
    over_task,
    shared_names,
    testable,
)
from emoguard.validate.nulls import Chance, LayerProfile, chance, layer_profile
from emoguard.validate.plane import Plane, plane
from emoguard.validate.verdict import Evidence, verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.fit.corpora import Text
    from emoguard.probe.probe import Probe
    from emoguard.validate.reading import Texts

FOLDS = 5
WITHIN_SHUFFLES = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Shuffled:
    """The macro AUROC and top-1 of the same procedure on a corpus with shuffled labels."""

    macro: float
    top1: float


@dataclass(frozen=True)
class Validation:
    """The results of a validation. Mappings by corpus have the tested corpus as key.

    `recipe` numbers are of directions fitted without the tested texts; `file` numbers are of the
    probe's own directions, which were fitted on all of them.
    """

    labels: tuple[str, ...]
    signs: tuple[int, ...]
    axis: str | None
    corpora: dict[str, int]
    layers: tuple[int, ...]
    within: dict[str, Comparison]
    shuffled: dict[str, Shuffled]
    pairs: dict[str, dict[str, Comparison]]
    """Fitted on the first key alone, tested on the second."""
    left_out: Comparison | None
    """Each corpus tested with a fit on all others, averaged; None with one corpus."""
    each_left_out: dict[str, Comparison]
    embeddings: Comparison | None
    """The recipe on the input of the first block, tested as `left_out`, else as `within`."""
    human: Comparison | None
    halves: Halves
    profile: LayerProfile | None
    chance: Chance
    plane: Plane
    plane_words: Plane
    confusion: tuple[tuple[int, ...], ...]
    """Counts (label, guessed) over all texts, left out by corpus, else by topic."""
    file: dict[str, Estimate] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    leaks: dict[str, int] = field(default_factory=dict)
    """Texts that hold a word of their own label, by label."""


def validate(
    task: Task,
    corpora: Sequence[Texts],
    neutral: Texts,
    *,
    recipe: Recipe | None = None,
    layers: Sequence[int] = (),
    probe: Probe | None = None,
    human: Texts | None = None,
    families: Sequence[Family] = (),
    leaks: Mapping[str, Sequence[Text]] = MappingProxyType({}),
    progress: Progress = lambda _: None,
) -> Validation:
    """Check a recipe, and a probe made by it, on labelled texts of one or several origins.

    `neutral` are texts without an emotion; their labels are not looked at. `human` are texts whose
    labels are names of `families`. Without `layers` the recipe chooses them, for each split on its
    own training texts. `leaks` are the texts that hold a word of their label, by label, from
    `emoguard.fit.leaks`: the card counts them. `progress` gets the name of the next step.

    Raises:
        EmoGuardError: a name without texts, or too few texts to hold any out.

    """
    check(task, corpora)
    trial = _Trial(
        task, corpora, neutral, recipe=recipe or Recipe(), layers=tuple(layers), progress=progress
    )
    result = trial.run(probe, human, families)
    return replace(result, leaks={label: len(texts) for label, texts in leaks.items()})


class _Trial:
    """One validation: the corpora, and the splits that several checks share."""

    def __init__(
        self,
        task: Task,
        corpora: Sequence[Texts],
        neutral: Texts,
        *,
        recipe: Recipe,
        layers: tuple[int, ...],
        progress: Progress,
    ) -> None:
        self._task = task
        self._corpora = corpora
        self._neutral = neutral.residuals
        self._neutral_texts = neutral
        self._recipe = recipe
        self._layers = layers
        self._progress = progress
        self._left_out: dict[str, Judged] = {}

    def run(
        self, probe: Probe | None, human: Texts | None, families: Sequence[Family]
    ) -> Validation:
        """Make all checks, in the order of the card."""
        task, corpora = self._task, self._corpora
        self._progress("fitting on everything")
        whole = self._fit(corpora)
        self._progress("topics held out")
        within = {c.name: self._within(c) for c in corpora}
        shuffled = {c.name: self._shuffled(c, whole.layers) for c in corpora}
        self._progress("corpora left out")
        self._left_out = {
            c.name: self._judge(self._others(c), c)
            for c in corpora
            if testable(task, self._others(c), c)
        }
        pairs = self._pairs()
        held_out = compare(task, list(within.values()))
        left_out = compare(task, list(self._left_out.values())) if self._left_out else None
        self._progress("embeddings")
        embeddings = self._embeddings()
        self._progress("human text")
        people = self._human(human, families) if human is not None else None
        self._progress("directions of two halves")
        agreement = halves(task, corpora, self._neutral, whole.layers, self._recipe)
        self._progress("layers")
        profile = self._profile() if self._left_out else None
        self._progress("directions without meaning")
        null = chance(task, corpora, self._neutral, whole.layers, self._recipe)
        sample = self._file(probe) if probe is not None else None
        file = {} if sample is None else {t: sample.estimate(n) for n, t in enumerate(task.targets)}
        macro = (left_out or held_out).macro.model
        meaningful = macro.low > null.recipe_macro
        if sample is not None:
            meaningful &= sample.mean(task.columns).low > null.file_macro
        evidence = {
            target: Evidence(
                left_out.targets[target].model if left_out and target in left_out.targets else None,
                left_out.targets[target].words.value
                if left_out and target in left_out.targets
                else held_out.targets[target].words.value,
                held_out.targets[target].model,
                file.get(target),
                null.recipe,
                null.file,
                meaningful,
            )
            for target in task.targets
            if target in held_out.targets
        }
        texts = [text for c in corpora for text in c.texts]
        labels = np.concatenate([c.labels for c in corpora])
        words = TextOnly(texts, labels, task.names, task.signs)
        counts = sum(j.confusion(MODEL) for j in (self._left_out or within).values())
        return Validation(
            labels=task.names,
            signs=task.signs,
            axis=task.axis if task.axis in task.targets else None,
            corpora={c.name: len(c) for c in corpora},
            layers=tuple(whole.layers),
            within={name: compare(task, [judged]) for name, judged in within.items()},
            shuffled=shuffled,
            pairs=pairs,
            left_out=left_out,
            each_left_out={name: compare(task, [j]) for name, j in self._left_out.items()},
            embeddings=embeddings,
            human=people,
            halves=agreement,
            profile=profile,
            chance=null,
            plane=plane(task, whole.steer),
            plane_words=plane(task, words.directions[None]),
            confusion=tuple(tuple(row) for row in np.asarray(counts).tolist()),
            file=file,
            evidence=evidence,
            verdicts={target: verdict(each) for target, each in evidence.items()},
        )

    def _fit(self, train: Sequence[Texts]) -> Fitted:
        pooled = [each.pooled for each in train]
        return fit_directions(pooled, self._neutral, self._task.names, self._recipe, self._layers)

    def _judge(self, train: Sequence[Texts], test: Texts, **options: Any) -> Judged:
        options = {"layers": self._layers, **options}
        return judge(self._task, train, test, self._neutral, recipe=self._recipe, **options)

    def _others(self, corpus: Texts) -> list[Texts]:
        return [each for each in self._corpora if each is not corpus]

    def _within(self, corpus: Texts, **options: Any) -> Judged:
        names = shared_names(self._task, [corpus], corpus)
        corpus = having(corpus, names)
        folds = corpus.folds(FOLDS)
        # A fold may lack a name: its texts are still scored for it.
        parts = [
            self._judge([corpus.take(folds != n)], corpus.take(folds == n), names=names, **options)
            for n in range(FOLDS)
        ]
        return joined(parts, corpus.clusters[np.argsort(folds, kind="stable")])

    def _shuffled(self, corpus: Texts, layers: Sequence[int]) -> Shuffled:
        judged = [
            self._within(corpus.shuffled(seed), layers=layers, words=False)
            for seed in range(WITHIN_SHUFFLES)
        ]
        names = self._task.columns
        return Shuffled(
            float(np.nanmean([j.areas(MODEL).value[names] for j in judged])),
            float(np.mean([j.top1(MODEL).value[0] for j in judged])),
        )

    def _pairs(self) -> dict[str, dict[str, Comparison]]:
        """Return every transfer between two corpora; of two corpora, the left-out tests."""
        if len(self._corpora) == 2:
            one, other = (c.name for c in self._corpora)
            return {
                train: {test: compare(self._task, [self._left_out[test]])}
                for train, test in ((other, one), (one, other))
                if test in self._left_out
            }
        pairs: dict[str, dict[str, Comparison]] = {}
        for a in self._corpora:
            for b in self._others(a):
                if testable(self._task, [a], b):
                    judged = compare(self._task, [self._judge([a], b)])
                    pairs.setdefault(a.name, {})[b.name] = judged
        return pairs

    def _embeddings(self) -> Comparison | None:
        everything = [*self._corpora, self._neutral_texts]
        if any(each.embeddings is None for each in everything):
            return None
        *corpora, neutral = [each.only_embeddings() for each in everything]
        trial = _Trial(
            self._task,
            corpora,
            neutral,
            recipe=self._recipe,
            layers=(0,),
            progress=self._progress,
        )
        judged = [
            trial._judge(trial._others(c), c) if c.name in self._left_out else trial._within(c)
            for c in corpora
        ]
        return compare(self._task, judged)

    def _human(self, human: Texts, families: Sequence[Family]) -> Comparison:
        known = [n for n in self._task.names if any(n in c.labels for c in self._corpora)]
        judged = self._judge(self._corpora, human, names=known)
        task = family_task(families, human.labels, known)
        return compare(task, [in_families(judged, task, families)])

    def _profile(self) -> LayerProfile:
        tested = []
        for corpus in self._corpora:
            if corpus.name not in self._left_out:
                continue
            names = shared_names(self._task, self._others(corpus), corpus)
            test = having(corpus, names)
            every = range(test.residuals.shape[1])
            train = [having(each, names) for each in self._others(corpus)]
            pooled = [each.pooled for each in train if len(each)]
            fitted = fit_directions(pooled, self._neutral, names, self._recipe, tuple(every))
            scores = np.stack([layer_scores(fitted, test.residuals, n) for n in every], axis=1)
            wide = [over_task(self._task, names, scores[:, n]) for n in every]
            tested.append((test, np.stack(wide, axis=1)))
        return layer_profile(self._task, tested)

    def _file(self, probe: Probe) -> Sample:
        """Return the AUROC of the file's directions on the corpora they were fitted on."""
        readout = probe.fold(None, self._task.targets)
        samples = []
        for c in self._corpora:
            states = np.asarray(c.residuals[:, list(probe.layers)]).transpose(1, 0, 2)
            scores = readout.read(states).astype(np.float64)
            positive = self._task.positives(c.labels)
            samples.append(areas(scores, positive, cluster_weights(c.clusters)))
        return average(samples)


def layer_scores(
    fitted: Fitted, residuals: NDArray[np.float32], number: int
) -> NDArray[np.float64]:
    """Return the projections at one of the fitted layers alone, (texts, labels)."""
    layer = fitted.layers[number]
    centred = residuals[:, layer].astype(np.float64) - fitted.centre[number]
    return np.asarray(centred @ fitted.read[number].T.astype(np.float64))


def check(task: Task, corpora: Sequence[Texts]) -> None:
    """Raise if these texts cannot be validated on; their residuals are not looked at.

    Raises:
        EmoGuardError: a name has too few texts, or they are of too few topics.

    """
    for name in task.names:
        most = max(int(np.sum(c.labels == name)) for c in corpora)
        if most < 2 * FOLDS:
            raise EmoGuardError(
                f"label {name} needs at least {2 * FOLDS} texts in one corpus to hold some out, "
                f"got {most}: give a corpus with more, or leave the label out by --labels"
            )
    for corpus in corpora:
        check_crossed(corpus, task.names, FOLDS)
