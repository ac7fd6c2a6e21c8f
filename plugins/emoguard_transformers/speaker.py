"""Prompts a Transformers model in words, one sequence or a batch of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from emoguard.errors import EmoGuardError
from emoguard.probe.residuals import Residuals
from emoguard.records import Request
from emoguard.runtime.openers import first_line
from emoguard.runtime.speaker import Generated, Prompt
from emoguard.runtime.watched import Options
from emoguard_transformers.door import Door

log = logging.getLogger("emoguard")

WIDE_ONLY = "AVX2"
"""An instruction set, as PyTorch names it, that has no arithmetic in 16 bits."""


class TransformersSpeaker:
    """See `emoguard.runtime.speaker.Speaker`, `GroupSpeaker` and `BatchSpeaker`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options: Options = {"tokenizer": tokenizer}
        self.has_template = bool(tokenizer.chat_template)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a folder that `save_pretrained` wrote, or a GGUF file, which is dequantised.

        Raises:
            EmoGuardError: it has no tokenizer.
            ValueError, OSError: Transformers cannot load it.

        """
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        where = {"gguf_file": path.name} if path.is_file() else {}
        folder = path.parent if where else path
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        except (ValueError, OSError) as error:
            raise EmoGuardError(
                f"the tokenizer of {path} cannot be opened: save it into the folder, too "
                f"({first_line(error)})"
            ) from error
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **where)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        _warn_if_slow(model, path)
        return cls(model, tokenizer)

    @cached_property
    def door(self) -> Residuals:
        """The offline door into the model."""
        return Door(self.model, self.tokenizer)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, in the chat template unless it is raw."""
        ids: list[int] = self._inputs(prompt)["input_ids"][0].tolist()
        return ids

    def answer(self, prompt: Prompt, tick: Callable[[], None]) -> str:
        """Generate with a streamer that ticks."""
        _, token_ids = self._generate(
            prompt,
            pad_token_id=self._padding,
            streamer=_Clock(tick),
        )
        return self.decode(token_ids)

    def respond(self, prompt: Prompt) -> Generated:
        """Respond; the end token is left out."""
        prompt_ids, token_ids = self._generate(prompt)
        return Generated(prompt_ids, self._until_end(token_ids))

    @property
    def together(self) -> int:
        """Return 8 in float32 on a CPU, where more rows compute no faster, else 32."""
        slow = self.model.device.type == "cpu" and self.model.dtype == torch.float32
        return 8 if slow else 32

    def respond_together(self, prompts: Sequence[Prompt]) -> list[Generated]:
        """Respond in one batch; the end token is left out."""
        before = [self.prompt_ids(prompt) for prompt in prompts]
        rows = self._rows(
            before, prompts[0].max_tokens, prompts[0].seed, _sampling(prompts[0].temperature)
        )
        return [Generated(ids, self._until_end(row)) for ids, row in zip(before, rows, strict=True)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        return str(
            self.tokenizer.decode(
                token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def batch(
        self,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        *,
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        exactly: bool = False,
    ) -> list[list[int]]:
        """Generate from prompts of token ids in one batch, padded on the left.

        No setting of the checkpoint, like a repetition penalty, has a part in it.
        """
        sampling = _sampling(temperature) | ({"top_k": 0, "top_p": 1.0} if temperature > 0 else {})
        if exactly:
            sampling["min_new_tokens"] = tokens
        with unadjusted(self.model):
            return self._rows(prompts, tokens, seed, sampling, emoguard=list(requests))

    def surprise(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Return the mean negative log-likelihood per token of `after`; 0 of nothing."""
        if not after:
            return 0.0
        ids = torch.tensor([[*before, *after]], device=self.model.device)
        with torch.no_grad():
            logits = self.model(ids).logits[0, len(before) - 1 : -1].float()
        chosen = torch.tensor(list(after), device=logits.device)
        return float(torch.nn.functional.cross_entropy(logits, chosen))

    @property
    def _padding(self) -> int:
        padding, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return int(end if padding is None else padding)

    def _inputs(self, prompt: Prompt) -> Any:
        if prompt.raw or not self.has_template:
            return self.tokenizer(prompt.plain, return_tensors="pt")
        return self.tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

    def _generate(self, prompt: Prompt, **more: Any) -> tuple[list[int], list[int]]:
        """Return the token ids of the prompt and those generated."""
        inputs = self._inputs(prompt).to(self.model.device)
        torch.manual_seed(prompt.seed)
        out = self.model.generate(
            **inputs, max_new_tokens=prompt.max_tokens, **_sampling(prompt.temperature), **more
        )[0].tolist()
        length = inputs["input_ids"].shape[1]
        return out[:length], out[length:]

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        seed: int,
        sampling: dict[str, Any],
        **more: Any,
    ) -> list[list[int]]:
        """Return the token ids generated in a batch, whose prompts are padded on the left."""
        padded, mask = left_padded(prompts, self._padding, self.model.device)
        torch.manual_seed(seed)
        out = self.model.generate(
            input_ids=padded,
            attention_mask=mask,
            max_new_tokens=tokens,
            pad_token_id=self._padding,
            **sampling,
            **more,
        )
        ids: list[list[int]] = out[:, padded.shape[1] :].tolist()
        return ids

    def _until_end(self, token_ids: list[int]) -> list[int]:
        """Return the token ids before the first that ends a generation."""
        ends = np.atleast_1d(self.model.generation_config.eos_token_id)
        return list(itertools.takewhile(lambda token: token not in ends, token_ids))


@contextmanager
def unadjusted(model: Any) -> Iterator[None]:
    """Let `generate` see a model's own logits, whatever the checkpoint's `generation_config` says.

    A repetition penalty, say, would change them before any processor of ours; `generate` takes it
    from there even where it gets a configuration without one.
    """
    kept = model.generation_config
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    plain: Any = GenerationConfig  # it has no types
    model.generation_config = plain(**{name: getattr(kept, name) for name in tokens})
    try:
        yield
    finally:
        model.generation_config = kept


def left_padded(
    prompts: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids of prompts as a matrix padded on the left, and its mask: 0 at padding.

    Both have shape (prompts, tokens of the longest).
    """
    longest = max(map(len, prompts))
    gaps = [longest - len(prompt) for prompt in prompts]
    ids = [[padding] * gap + [*prompt] for gap, prompt in zip(gaps, prompts, strict=True)]
    mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _warn_if_slow(model: Any, path: Path) -> None:
    """Log that a model's numbers are of a kind that this processor computes in software."""
    narrow = model.device.type == "cpu" and model.dtype in {torch.bfloat16, torch.float16}
    if narrow and torch.backends.cpu.get_cpu_capability() == WIDE_ONLY:
        log.warning(
            "%s is in %s, for which this processor has no instructions: a copy saved in float32, "
            "or a GGUF file, answers several times as fast here",
            path.name,
            str(model.dtype).removeprefix("torch."),
        )


def _sampling(temperature: float) -> dict[str, Any]:
    """Return the arguments of `generate` for a temperature; 0 is greedy."""
    return (
        {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    )


class _Clock:
    """A streamer that only calls a function at each token."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick

    def put(self, value: Any) -> None:
        self._tick()

    def end(self) -> None:
        """Do nothing: the report tells when the response is over."""
