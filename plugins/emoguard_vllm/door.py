"""Reads residuals of a given text, as a request of its own through the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emoguard.errors import EmoGuardError
from emoguard_vllm.buffers import KEPT
from emoguard_vllm.engine import Engine
from emoguard_vllm.identity import identify


class Door:
    """Residuals of texts run through an engine, read by the hooks that read generations.

    An engine that was started with `"door": true` reads every layer out; another one only the
    layers of its probe, of at most `KEPT` tokens: enough for the witness.
    """

    backend = "vllm"

    def __init__(self, engine: Engine) -> None:
        self.identity = identify(engine.config, engine.tokenizer)
        self._engine = engine

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids; `special` adds BOS as the tokenizer does by default."""
        tokenizer = self._engine.tokenizer
        if tokenizer is None:
            raise EmoGuardError(
                f"{self.identity.name} was started without a tokenizer and cannot read text: leave "
                "out skip_tokenizer_init"
            )
        return list(tokenizer.encode(text, add_special_tokens=special))

    def residuals(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """Return the outputs of decoder blocks `layers`, float32 (layers, tokens, hidden).

        Raises:
            EmoGuardError: no tokens, layers without a hook or one that does not run, a text too
                long for this engine.

        """
        self._check(token_ids, layers)
        by_layer: dict[int, NDArray[np.float32]] = {}
        for numbers, blobs in filter(None, self._engine.residuals(token_ids)):
            for number, blob in zip(numbers, blobs, strict=True):
                by_layer[number] = np.frombuffer(blob, np.float32).reshape(-1, self.identity.hidden)
        missing = [layer for layer in layers if len(by_layer.get(layer, ())) != len(token_ids)]
        if missing:
            raise EmoGuardError(
                f"the engine gave no residuals of layers {', '.join(map(str, missing))}: it runs "
                "without EmoGuard's hooks; is EmoGuard installed where its workers run, and "
                "allowed in VLLM_PLUGINS?"
            )
        unread = [layer for layer in layers if np.isnan(by_layer[layer]).all()]
        if unread:
            raise EmoGuardError(
                f"the hooks at layers {', '.join(map(str, unread))} do not run: the engine uses "
                "code that was compiled without them; set VLLM_DISABLE_COMPILE_CACHE=1 and start "
                "it again"
            )
        return np.stack([by_layer[layer] for layer in layers])

    def _check(self, token_ids: Sequence[int], layers: Sequence[int]) -> None:
        layout = self._engine.layout
        if not len(token_ids):
            raise EmoGuardError("an empty text has no residuals: give at least one token")
        unknown = [layer for layer in layers if layer not in layout.layers]
        if unknown or not len(layers):
            raise EmoGuardError(
                f"this engine reads layers {', '.join(map(str, layout.layers))}, got "
                f"{', '.join(map(str, layers))}: start it for this probe, or for any with "
                '"door": true'
            )
        if not layout.door and len(token_ids) > KEPT:
            raise EmoGuardError(
                f"this engine reads texts of at most {KEPT} tokens out, got {len(token_ids)}: "
                'start it with "door": true'
            )
