"""Reads residuals of given texts, in a context of its own: the offline door."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Pool
from emoguard_llamacpp import ctypes_llama, pooling, support
from emoguard_llamacpp.identity import identify
from emoguard_llamacpp.pooling import CHUNK
from emoguard_llamacpp.reader import Reader
from emoguard_llamacpp.tap import Tap

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LiveDoor:
    """Residuals of texts run through the context that `llm` generates in, as `reader` sees them."""

    def __init__(self, llm: Any, reader: Reader, identity: ModelIdentity, backend: str) -> None:
        self.identity = identity
        self.backend = backend
        self._llm = llm
        self._reader = reader

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids; `special` adds BOS if the model uses one."""
        return tokenize(self._llm, text, special=special)

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the outputs of decoder blocks `layers`, which are those of the reader."""
        self._llm.reset()
        batch = self._llm.n_batch
        chunks = [token_ids[i : i + batch] for i in range(0, len(token_ids), batch)]
        return np.concatenate([self._reader.capture(chunk) for chunk in chunks], axis=1)


def tokenize(llm: Any, text: str, *, special: bool) -> list[int]:
    """Return token ids; special tokens written in the text are recognised, as Transformers does."""
    bos = special and llm._model.add_bos_token()  # noqa: SLF001
    return list(llm.tokenize(text.encode(), add_bos=bos, special=True))


class Door:
    """Residuals of texts run through `llm`'s weights, while `llm` itself may be in use.

    Each call, or each pass over many texts, makes a small context (a few milliseconds) with the
    model's own context settings and frees it again: `llm`'s cache, its state and a watch on it are
    not touched.
    """

    def __init__(self, llm: Any, backend: str = "auto") -> None:
        support.check_model(llm)
        self.identity = identify(llm)
        self.path = support.choose(self.identity.architecture, backend)
        self.backend = f"llama_cpp:{self.path}"
        self._llm = llm

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids; `special` adds BOS if the model uses one."""
        return tokenize(self._llm, text, special=special)

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the outputs of decoder blocks `layers`, float32 (layers, tokens, hidden)."""
        support.check_layers(layers, self.identity.layers)
        if not token_ids:
            raise EmoGuardError("an empty text has no residuals: give at least one token")
        out = np.empty((len(layers), len(token_ids), self.identity.hidden), np.float32)
        read = self._native if self.path == "native" else self._callback
        read([int(t) for t in token_ids], layers, out)
        return out

    def pooling(
        self, layers: Sequence[int], *, texts: int, tokens: int
    ) -> AbstractContextManager[Pool]:
        """Open a pass over batches of texts; see `emoguard.probe.residuals.Pooling`."""
        support.check_layers([layer for layer in layers if layer != -1], self.identity.layers)
        read = pooling.native if self.path == "native" else pooling.callback
        return read(self._llm, layers, self.identity.hidden, texts=texts, tokens=tokens)

    def _native(self, tokens: list[int], layers: Sequence[int], out: NDArray[np.float32]) -> None:
        with ctypes_llama.own_context(self._llm, len(tokens), CHUNK) as context:
            for layer in layers:
                ctypes_llama.keep_layer_input(context, layer + 1, on=True)
            for start, chunk in _chunks(tokens):
                ctypes_llama.decode(context, chunk)
                for n, layer in enumerate(layers):
                    out[n, start : start + len(chunk)] = ctypes_llama.layer_input(
                        context, layer + 1, len(chunk), self.identity.hidden
                    )

    def _callback(self, tokens: list[int], layers: Sequence[int], out: NDArray[np.float32]) -> None:
        tap = Tap(layers, self.identity.hidden)
        with ctypes_llama.own_context(self._llm, len(tokens), CHUNK, tap.answer) as context:
            for start, chunk in _chunks(tokens):
                ctypes_llama.decode(context, chunk)
                for n, rows in enumerate(tap.take(len(chunk))):
                    out[n, start : start + len(chunk)] = rows


def _chunks(tokens: list[int]) -> Iterator[tuple[int, list[int]]]:
    for start in range(0, len(tokens), CHUNK):
        yield start, tokens[start : start + CHUNK]
