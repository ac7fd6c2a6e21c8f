"""Keeps a model's answers to the first prompts of a list in a file, as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from emoguard import regularfile
from emoguard.fit.responses import Sampling, responses
from emoguard.fit.workfile import LARGEST, WorkFile
from emoguard.runtime.speaker import Generated, Speaker


class AnswerFile:
    """Answers to the first prompts of a list, bound to what they depend on: model and context.

    Raises:
        EmoGuardError: the file is none, cannot be written, or is of another model or context.

    """

    def __init__(self, path: str | Path, bound: Mapping[str, Any]) -> None:
        self._file = WorkFile(path, "answers", bound, _answer)
        self.path = self._file.path
        self.answers = self._file.records

    def extend(
        self, source: Callable[[int], Any], enough: Callable[[list[Generated]], bool]
    ) -> None:
        """Take answers from `source(start)` until there are `enough` or it has no more."""
        if enough(self.answers):
            return
        for answer in source(len(self.answers)):
            self._file.append({"prompt": answer.prompt_ids, "answer": answer.token_ids})
            if enough(self.answers):
                return

    def close(self) -> None:
        """Let another command work on the file. Idempotent."""
        self._file.close()


def answered(
    speaker: Speaker,
    prompts: Sequence[str],
    sampling: Sampling,
    path: str | Path,
    enough: Callable[[list[Generated]], bool],
) -> list[Generated]:
    """Return the answers in the file at `path`, after adding to them until there are `enough`.

    Raises:
        EmoGuardError: a file of something else, or of another model, sampling or list of prompts.

    """
    identity = speaker.door.identity
    bound = {"model": identity.digest, **sampling.context(identity.template, prompts)}
    with closing(AnswerFile(path, bound)) as file:
        file.extend(lambda start: responses(speaker, prompts, sampling, start=start), enough)
    return file.answers


def _answer(data: Any) -> Generated:
    return Generated(_ids(data["prompt"]), _ids(data["answer"]))


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError("wanted token ids")
    return values


def count(path: str | Path) -> int:
    """Return how many answers a file holds already, 0 where there is none yet."""
    try:
        return max(0, regularfile.read(path, LARGEST).count(b"\n") - 1)
    except OSError:
        return 0
