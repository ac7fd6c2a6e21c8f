"""Leaves out texts that are too short to be read, or repeat others, and counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emoguard.cli.bars import Bars
from emoguard.cli.screen import say
from emoguard.fit import corpora, extraction
from emoguard.fit.corpora import Text
from emoguard.fit.extraction import SHORTEST, Portion, extract_embedded
from emoguard.probe.residuals import Residuals
from emoguard.validate.human import chosen
from emoguard.validate.reading import Texts

if TYPE_CHECKING:
    from numpy.typing import NDArray


def readable(door: Residuals, texts: Sequence[Text]) -> list[Text]:
    """Return the texts that are long enough to be read, each once; say which are left out."""
    again = [text for _, text in corpora.repeated(texts)]
    once = _without(texts, again, "repeat others")
    long_enough = set(map(id, extraction.readable(door, once)))
    short = [text for text in once if id(text) not in long_enough]
    return _without(once, short, f"have fewer than {extraction.SHORTEST} tokens")


def _without(texts: Sequence[Text], out: Sequence[Text], why: str) -> list[Text]:
    if out:
        say(
            f"Left out {len(out):,} of {len(texts):,} texts, which {why}: the first at "
            f"{out[0].place}.",
            err=True,
        )
    left = set(map(id, out))
    return [text for text in texts if id(text) not in left]


@dataclass(frozen=True)
class Reader:
    """Takes texts through the model; each set is kept in a folder of its own in `stores`."""

    door: Residuals
    stores: Path
    skip: int
    progress: Bars

    def labelled(
        self, name: str, folder: str, texts: Sequence[Text], portion: Portion | None = None
    ) -> Texts:
        """Read texts, all long enough; of a portion that is all, only those in it."""
        bar = self.progress.add_task(f"reading {name}", total=len(texts))
        states, embeddings = extract_embedded(
            self.door,
            [text.text for text in texts],
            self.stores / folder,
            skip=self.skip,
            progress=lambda done: self.progress.update(bar, completed=done),
            portion=portion,
        )
        if portion is not None and portion.is_all:
            texts = [texts[n] for n in portion.texts]
            self.progress.update(bar, total=len(texts), completed=len(texts))
        labels, topics = [t.label for t in texts], [t.topic for t in texts]
        return Texts(
            name, [t.text for t in texts], np.array(labels), np.array(topics), states, embeddings
        )

    def human(self, texts: Sequence[str], found: NDArray[np.str_], most: int) -> Texts:
        """Read at most `most` texts of each family; too short ones are left out."""
        long_enough = [len(self.door.tokenize(text)) >= SHORTEST for text in texts]
        kept = np.flatnonzero(long_enough)
        kept = kept[chosen(found[kept], most)]
        people = [Text(str(found[n]), "", texts[n]) for n in kept.tolist()]
        return self.labelled("human", "human", people)
