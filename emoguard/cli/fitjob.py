"""Holds the work of one run of `emoguard fit`: forecasts it, does it, cleans up after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emoguard.cli.bars import Bars
from emoguard.cli.reading import Reader
from emoguard.errors import EmoGuardError
from emoguard.fit import calibrating, examples, recipe, store
from emoguard.fit.corpora import Label, Text
from emoguard.fit.extraction import Portion, begun
from emoguard.fit.forecast import Part, Speed, Work, forecast, measure
from emoguard.fit.leaks import leak_cautions, leaks
from emoguard.fit.requirements import VALENCE, check
from emoguard.fit.responses import whole_groups
from emoguard.fit.scope import Scope
from emoguard.probe.calibration import FEWEST_RESPONSES
from emoguard.probe.probe import Probe
from emoguard.runtime.speaker import Speaker
from emoguard.validate import carddata
from emoguard.validate.judged import Task
from emoguard.validate.validation import validate

if TYPE_CHECKING:
    from emoguard.validate.reading import Texts

STATUS = "first judgement, on texts alone: emoguard validate also judges the model's own answers"


@dataclass(frozen=True, eq=False)
class Job:
    """The inputs of a fit: models, texts, prompts, and the file to write.

    `reader` reads the texts, `speaker` answers, `others` read its answers as well. `corpora` are by
    name, `neutral` by file.
    """

    reader: Speaker
    speaker: Speaker
    others: Sequence[Callable[[], Speaker]]
    labels: Sequence[Label]
    corpora: dict[str, list[Text]]
    neutral: list[list[Text]]
    layers: Sequence[int]
    skip: int
    scope: Scope
    sample: calibrating.NeutralSample
    example_prompts: Sequence[examples.ExamplePrompt]
    out: str

    def __post_init__(self) -> None:
        if len(self.sample.prompts) < FEWEST_RESPONSES:
            raise EmoGuardError(
                f"--prompts: a calibration needs at least {FEWEST_RESPONSES} prompts, got "
                f"{len(self.sample.prompts)}: give more"
            )
        check(self.reader.door, list(self.corpora.values()), self.plain, self.labels, self.layers)

    @property
    def plain(self) -> list[Text]:
        """All neutral texts."""
        return [text for each in self.neutral for text in each]

    @property
    def stores(self) -> Path:
        """The folder for residuals of texts."""
        return Path(f"{self.out}.residuals")

    def speed(self) -> Speed:
        """Time the models on this machine."""
        texts = [text.text for each in self.corpora.values() for text in each]
        return measure(self.reader, self.speaker, texts, self.sample.prompts, self.sample.sampling)

    def forecast(self, speed: Speed, scope: Scope) -> list[Part]:
        """Return the remaining parts of a fit of `scope`.

        Raises:
            EmoGuardError: residuals or answers beside the output are another model's, or of other
                texts or prompts.

        """
        identity = self.reader.door.identity
        taken = [_taken(texts, scope.portion(texts)) for texts in self.corpora.values()]
        answered = calibrating.begun(self.speaker, self.sample, self.out)
        left = whole_groups(self.speaker, scope.responses, answered, len(self.sample.prompts))
        kept = examples.begun(self.speaker, self.example_prompts, self.out)
        work = Work(
            tokens=round(sum(self._tokens_left(*part) for part in self._portions(scope))),
            responses=left,
            answers=answered + left,
            readers=1 + len(self.others),
            examples=whole_groups(self.speaker, self.shown(scope), kept, len(self.example_prompts)),
            texts=sum(map(len, taken)),
            corpora=len(taken),
            blocks=identity.layers - 1,
            width=identity.hidden,
        )
        return forecast(speed, work)

    def shown(self, scope: Scope) -> int:
        """Return the number of examples on the page."""
        count = len(self.example_prompts)
        return min(examples.FEW, count) if scope.is_quick else count

    def make(self, name: str, sources: Sequence[str], progress: Bars) -> Probe:
        """Read the texts, fit directions on them, and judge them."""
        reader = Reader(self.reader.door, self.stores, self.skip, progress)
        titles = [*self.corpora, "neutral texts"]
        *texts, neutral = (
            reader.labelled(title, *part)
            for title, part in zip(titles, self._portions(self.scope), strict=True)
        )
        bar = progress.add_task("fitting directions", total=None)
        probe = recipe.make(
            self.reader.door,
            [each.pooled for each in texts],
            neutral.residuals,
            self.labels,
            name=name,
            layers=self.layers,
            skip=self.skip,
            sources=sources,
            leaks=leak_cautions(list(self.corpora.values()), self.labels),
            is_provisional=self.scope.is_quick,
        )
        judged = self._judged(
            probe, texts, neutral, lambda what: progress.update(bar, description=f"judging: {what}")
        )
        progress.remove_task(bar)
        return judged

    def clear(self) -> None:
        """Delete the work files; the fit is complete."""
        store.remove(self.stores)
        for path in (calibrating.answer_file(self.out), examples.answer_file(self.out)):
            Path(path).unlink(missing_ok=True)

    def _portions(self, scope: Scope) -> list[tuple[str, list[Text], Portion]]:
        """Return each set of texts with its folder, and the portion of it to begin with."""
        parts = [
            (f"corpus-{n}", texts, scope.portion(texts))
            for n, texts in enumerate(self.corpora.values())
        ]
        return [*parts, ("neutral", self.plain, scope.neutral_portion(self.neutral))]

    def _tokens_left(self, folder: str, texts: list[Text], portion: Portion) -> float:
        taken = _taken(texts, portion)
        done = begun(
            self.reader.door, [text.text for text in texts], self.stores / folder, self.skip
        )
        left = max(0, len(taken) - done)
        tokens = sum(len(self.reader.door.tokenize(text.text)) for text in taken)
        return tokens * left / max(1, len(taken))

    def _judged(
        self, probe: Probe, texts: Sequence[Texts], neutral: Texts, progress: Callable[[str], None]
    ) -> Probe:
        """Return the probe with a first judgement in its card, or the reason for its absence."""
        names = tuple(each.name for each in self.labels)
        task = Task(names, tuple(each.valence for each in self.labels), VALENCE)
        try:
            result = validate(
                task,
                texts,
                neutral,
                layers=self.layers,
                probe=probe,
                leaks=leaks([text for some in self.corpora.values() for text in some], self.labels),
                progress=progress,
            )
        except EmoGuardError as error:
            doubts = [*probe.card["cautions"], f"not judged: {error}"]
            return dataclasses.replace(probe, card={**probe.card, "cautions": doubts})
        judgement = {**carddata.summary(result, carddata.NOTHING), "status": STATUS}
        return dataclasses.replace(probe, card={**probe.card, **judgement})


def _taken(texts: Sequence[Text], portion: Portion) -> list[Text]:
    return [texts[n] for n in portion.texts] if portion.is_all else list(texts)
