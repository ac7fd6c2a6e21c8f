"""Keeps a model's answers to the first prompts of a list in a file, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from emoguard.fit.responses import Sampling, groups
from emoguard.fit.workfile import WorkFile
from emoguard.runtime.speaker import Generated, Speaker


class AnswerFile:
    """Answers to the first prompts of a list, bound to the model and context that made them.

    Raises:
        EmoGuardError: the file holds anything else, cannot be written, or belongs to another model
            or context.

    """

    def __init__(self, path: str | Path, bound: Mapping[str, Any]) -> None:
        self._file = WorkFile(path, "answers", bound, _answer)
        self.path = self._file.path
        self.answers = self._file.records

    def extend(
        self,
        source: Callable[[int], Iterable[Sequence[Generated]]],
        enough: Callable[[list[Generated]], bool],
    ) -> None:
        """Append groups of answers from `source(start)` until `enough` accepts them or it ends.

        A group is kept whole: its answers are made, and a later run may want them.
        """
        if enough(self.answers):
            return
        for group in source(len(self.answers)):
            for answer in group:
                self._file.append({"prompt": answer.prompt_ids, "answer": answer.token_ids})
            if enough(self.answers):
                return

    def close(self) -> None:
        """Release the file for other commands. Idempotent."""
        self._file.close()


def answered(
    speaker: Speaker,
    prompts: Sequence[str],
    sampling: Sampling,
    path: str | Path,
    enough: Callable[[list[Generated]], bool],
) -> list[Generated]:
    """Return the answers in the file at `path`, after adding more until `enough` accepts them.

    Raises:
        EmoGuardError: the file holds anything else, or belongs to another model, sampling or list
            of prompts.

    """
    with closing(_opened(speaker, prompts, sampling, path)) as file:
        file.extend(lambda start: groups(speaker, prompts, sampling, start=start), enough)
    return file.answers


def begun(speaker: Speaker, prompts: Sequence[str], sampling: Sampling, path: str | Path) -> int:
    """Return the number of answers in the file at `path` that `answered` would take over.

    Raises:
        EmoGuardError: as in `answered`.

    """
    if not Path(path).exists():
        return 0
    with closing(_opened(speaker, prompts, sampling, path)) as file:
        return len(file.answers)


def _opened(
    speaker: Speaker, prompts: Sequence[str], sampling: Sampling, path: str | Path
) -> AnswerFile:
    identity = speaker.door.identity
    return AnswerFile(
        path, {"model": identity.digest, **sampling.context(identity.template, prompts)}
    )


def _answer(data: Any) -> Generated:
    return Generated(_ids(data["prompt"]), _ids(data["answer"]))


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError("wanted token ids")
    return values
