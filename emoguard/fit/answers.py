"""The work file of `emoguard calibrate`: answers are kept as they come, so none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.fit.responses import Answer

HEAD = b'{"emoguard":"answers",'


class AnswerFile:
    """Answers to the first prompts of a list, in JSON lines after one line that says whose.

    `bound` is what they depend on: model and context. A line that a killed process left half
    written is dropped; everything before it stays.

    Raises:
        EmoGuardError: the file is none, cannot be written, or is of another model or context.

    """

    def __init__(self, path: str | Path, bound: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.answers: list[Answer] = []
        try:
            whole = self.path.read_bytes() if self.path.exists() else b""
            # A line counts once its newline is there.
            kept, _, _ = whole.rpartition(b"\n")
            lines = kept.split(b"\n") if kept else []
            if not HEAD.startswith(whole[: len(HEAD)]):
                raise self._foreign()
            if lines:
                self._read(lines, bound)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(len(kept) + 1 if kept else 0)
                file.seek(0, 2)
                if not kept:
                    file.write(_line({"emoguard": "answers", "bound": dict(bound)}))
        except OSError as error:
            raise EmoGuardError(f"{self.path} cannot be used: {error.strerror}") from error

    def extend(self, source: Callable[[int], Any], enough: Callable[[list[Answer]], bool]) -> None:
        """Take answers from `source(start)` until there are `enough` or it has no more."""
        if enough(self.answers):
            return
        with self.path.open("ab") as file:
            for answer in source(len(self.answers)):
                file.write(_line({"prompt": answer.prompt_ids, "answer": answer.token_ids}))
                file.flush()
                self.answers.append(answer)
                if enough(self.answers):
                    return

    def _read(self, lines: list[bytes], bound: Mapping[str, Any]) -> None:
        try:
            if json.loads(lines[0])["bound"] != dict(bound):
                raise EmoGuardError(
                    f"{self.path} holds answers of another model, or to other prompts, or sampled "
                    "otherwise: delete it, or give another --out"
                )
            for line in lines[1:]:
                record = json.loads(line)
                self.answers.append(Answer(_ids(record["prompt"]), _ids(record["answer"])))
        except (ValueError, LookupError, TypeError) as error:
            raise self._foreign() from error

    def _foreign(self) -> EmoGuardError:
        return EmoGuardError(f"{self.path} is no file of answers: delete it, or give another --out")


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError("wanted token ids")
    return values
