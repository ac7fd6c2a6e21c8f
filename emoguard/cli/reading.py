"""Reads corpora through a model, without texts that are too short or repeat others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoguard.cli.bars import Bars
from emoguard.cli.screen import say
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora, extraction
from emoguard.fit.corpora import Text
from emoguard.fit.extraction import SHORTEST, Portion, extract_embedded
from emoguard.probe.residuals import Residuals
from emoguard.validate.human import chosen
from emoguard.validate.reading import Texts

if TYPE_CHECKING:
    from numpy.typing import NDArray


def readable(door: Residuals, texts: Sequence[Text]) -> list[Text]:
    """Return the texts that are long enough to be read, each once; report those left out."""
    again = [text for _, text in corpora.repeated(texts)]
    once = _without(texts, again, "repeat others")
    long_enough = set(map(id, extraction.readable(door, once)))
    short = [text for text in once if id(text) not in long_enough]
    return _without(once, short, f"have fewer than {extraction.SHORTEST} tokens")


def unread(name: str, texts: Sequence[Text]) -> Texts:
    """Return texts without residuals, for checks before they are read."""
    return Texts(
        name,
        [text.text for text in texts],
        np.array([text.label for text in texts]),
        np.array([text.topic for text in texts]),
        np.zeros((len(texts), 0, 0), np.float32),
    )


def _without(texts: Sequence[Text], out: Sequence[Text], why: str) -> list[Text]:
    if out:
        say(
            f"Left out {len(out):,} of {len(texts):,} texts, which {why}: the first at "
            f"{out[0].place}.",
            err=True,
        )
    left = set(map(id, out))
    return [text for text in texts if id(text) not in left]


def stories_of(
    paths: Sequence[str], labels: Sequence[corpora.Label], most: int
) -> dict[str, list[Text]]:
    """Return corpora by name, at most `most` texts of each label in each; they share no text."""
    by_name = {
        name: corpora.balanced(corpora.read(path, labels), most)
        for name, path in _named(paths).items()
    }
    corpora.check_apart(by_name)
    return by_name


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Return paths by a short name: the file's, or its folder's if files have equal names."""
    whole = [Path(p).resolve() for p in paths]
    own = {p.resolve(): f"own {p.stem}" for p in corpora.own()}
    stems = [own.get(p, p.stem) for p in whole]
    if len(set(stems)) < len(stems):
        stems = [own.get(p, p.parent.name) for p in whole]
    if len(set(stems)) < len(stems):
        raise EmoGuardError(f"corpora need different names, got {', '.join(paths)}")
    return dict(zip(stems, paths, strict=True))


@dataclass(frozen=True)
class Reader:
    """Reads sets of texts through the model; each set has a folder of its own in `stores`."""

    door: Residuals
    stores: Path
    skip: int
    progress: Bars

    def labelled(
        self, name: str, folder: str, texts: Sequence[Text], portion: Portion | None = None
    ) -> Texts:
        """Read texts, all long enough; only those in `portion` if it is all."""
        is_part = portion is not None and portion.is_all
        count = len(portion.texts) if portion is not None and is_part else len(texts)
        bar = self.progress.add_task(f"reading {name}", total=count)
        states, embeddings = extract_embedded(
            self.door,
            [text.text for text in texts],
            self.stores / folder,
            skip=self.skip,
            progress=lambda done: self.progress.update(bar, completed=done),
            portion=portion,
        )
        if portion is not None and is_part:
            texts = [texts[n] for n in portion.texts]
        return replace(unread(name, texts), residuals=states, embeddings=embeddings)

    def human(self, texts: Sequence[str], family_names: NDArray[np.str_], most: int) -> Texts:
        """Read at most `most` texts of each family; texts that are too short are left out."""
        long_enough = [len(self.door.tokenize(text)) >= SHORTEST for text in texts]
        kept = np.flatnonzero(long_enough)
        kept = kept[chosen(family_names[kept], most)]
        people = [Text(str(family_names[n]), "", texts[n]) for n in kept.tolist()]
        return self.labelled("human", "human", people)
