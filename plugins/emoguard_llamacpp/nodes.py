"""Observes nodes of llama.cpp's graphs while they are computed, without affecting them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Generator, Iterable

from emoguard.errors import EmoGuardError
from emoguard_llamacpp.ctypes_llama import NAMES, name_heads


class Nodes:
    """Shows each wanted node to `see` as soon as it is computed; `answer` is the `cb_eval` for it.

    llama.cpp asks about every node, computes up to the first wanted one, shows it, and goes on only
    if the answer is yes. An exception that leaves a ctypes callback is lost and answers anything:
    the graph may break off, and a token would be sampled from half of it. A function cannot prevent
    that, because Ctrl-C and its kind also come at a function's entry, outside of any `try`. A
    generator can: it is resumed inside its `try`. Hence nothing is lost here, and llama.cpp always
    gets its yes; `check` raises the exception after the pass.

    Resuming a generator is also cheaper than calling a function, and one argument is less to
    convert: whether a node is asked about or shown follows from the last answer.
    """

    def __init__(self, names: Iterable[bytes], see: Callable[[int], None]) -> None:
        self._error: BaseException | None = None
        self._answers = self._answer(name_heads(names), see)
        next(self._answers)
        self.answer: Callable[[int], bool] = self._answers.send

    def check(self) -> None:
        """Raise the first exception since the last call: from outside or from `see`.

        Raises:
            EmoGuardError: Python could not run at all (the limit of recursion): the last pass was
                broken off. From then on the callback is dead, see `alive`.

        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        if not self.alive:
            raise EmoGuardError(
                "llama.cpp could not call Python, and its pass was broken off: generate again, "
                "further from the recursion limit"
            )

    @property
    def alive(self) -> bool:
        """Whether the callback can still answer llama.cpp."""
        return inspect.getgeneratorstate(self._answers) != inspect.GEN_CLOSED

    def close(self) -> None:
        """Release `see` and all it holds. No context may use `answer` any more."""
        self._answers.close()

    def _answer(
        self, wanted: Container[int], see: Callable[[int], None]
    ) -> Generator[bool, int, None]:
        """Take the address of a node and say whether to go on; in the first loop, to show it.

        The inner loop runs for every node of a graph: it compares eight bytes of the name. `shown`
        is set while a node is shown, so that the answer is also right after an exception.
        """
        names = NAMES
        shown = True
        while True:
            try:
                while True:
                    answer, shown = shown, False
                    tensor = yield answer
                    while True:
                        while names[tensor >> 3] not in wanted:
                            tensor = yield False
                        shown = True
                        previous, tensor = tensor, (yield True)
                        if tensor == previous:
                            break
                        shown = False  # the pass failed: this is the first question of another
                    see(tensor)
            except GeneratorExit:
                return
            except BaseException as error:  # noqa: BLE001
                if self._error is None:
                    self._error = error
