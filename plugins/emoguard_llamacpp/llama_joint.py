"""Joins a `llama_cpp.Llama` to a watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from emoguard.errors import EmoGuardError
from emoguard.probe.identity import ModelIdentity
from emoguard.probe.residuals import Residuals
from emoguard.runtime import marks
from emoguard.runtime.joint import Sessions
from emoguard.runtime.phases import Thinking
from emoguard.runtime.session import Session
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard_llamacpp import support
from emoguard_llamacpp.door import LiveDoor
from emoguard_llamacpp.generations import Generations
from emoguard_llamacpp.head import Head
from emoguard_llamacpp.identity import Held


class LlamaJoint:
    """See `emoguard.runtime.joint.Joint`. `head` reads the context while the model is watched."""

    def __init__(self, model: Any, backend: str = "auto") -> None:
        support.check_model(model)
        self.model = model
        self.thinking = find_thinking(model)
        self.head: Head | None = None
        self._held = Held(model)
        self._asked = backend
        self._path = support.choose(self._held.identity().architecture, backend)
        self._generations: Generations | None = None

    @property
    def backend(self) -> str:
        """Return the runtime and the path that is read on."""
        return f"llama_cpp:{self._path if self.head is None else self.head.path}"

    def identity(self, *, anew: bool = False) -> ModelIdentity:
        """Return the identity of the model, as far as its files show it."""
        return self._held.identity(anew=anew)

    @contextmanager
    def hooked(self, site: Site) -> Iterator[Residuals]:
        """Read the model's decodes; the door goes through the live context. Drops the cache."""
        support.check_witness(site.probe, self.model)
        self.head = head = Head(self.model, site, self._path)
        try:
            head.start()
            try:
                yield LiveDoor(self.model, head.reader, site.identity, self.backend)
            except BaseException:  # else `wrapped` has stopped it
                head.stop(keep_state=False)
                raise
        except BaseException:
            head.forget()
            raise

    @contextmanager
    def wrapped(self, sessions: Sessions) -> Iterator[None]:
        """Follow `generate` and the completions around it; at the end, stop reading."""
        assert self.head is not None
        self.head.forget()
        generations = Generations(self.model, self.head, sessions, self.thinking)
        self._generations = generations
        try:
            with generations.wrapped():
                try:
                    yield
                finally:
                    generations.let_go()
        finally:
            # Otherwise the model would stay in memory until the next garbage collection.
            self._generations = None

    def refuse(self, steering: Steering) -> None:
        """Raise EmoGuardError for steering that llama.cpp or the read path does not support."""
        if self.model.draft_model is not None:
            raise EmoGuardError("speculative decoding cannot be steered: unset draft_model")
        if steering.layers[0] == 0:
            raise EmoGuardError(
                "llama.cpp cannot steer layer 0: leave it out of plan.layers, or fit a probe at "
                "layers from 1 on"
            )
        if steering.plan.prompt and support.takes_media(self.model):
            raise EmoGuardError(
                "this Llama's chat handler computes images and sound before there is a plan: leave "
                "prompt: true out of it"
            )
        if self._asked == "native":
            raise EmoGuardError(
                'the native read cannot steer: attach with backend="auto" or "callback"'
            )

    def settle(self, session: Session) -> None:
        """Fill in the rows that wait for a pass over the directions."""
        if self.head is not None:
            self.head.scores.settle()

    def release(self, session: Session) -> None:
        """End the steering of a session, and hide the positions that it computed steered."""
        if self._generations is not None:
            self._generations.release(session)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        text: bytes = self.model.detokenize(list(token_ids))
        return text.decode("utf-8", "replace")


def find_thinking(llm: Any) -> Thinking | None:
    """Return the marks of this model around its reasoning in chats, None if none are known."""

    def token(text: str) -> int | None:
        ids = llm.tokenize(text.encode(), add_bos=False, special=True)
        return int(ids[0]) if len(ids) == 1 else None

    template = llm.metadata.get("tokenizer.chat_template", "")
    thinking = marks.find_thinking(token, template, _renderer(llm), _blank(llm))
    # For a file without a template llama-cpp-python takes another model's, which opens nothing.
    return thinking if thinking is None or template else thinking._replace(opens_prompts=False)


def _renderer(llm: Any) -> Callable[..., str]:
    """Render messages in the file's own chat template; fails without one."""

    def render(messages: list[Any], **switches: Any) -> str:
        template = llm.metadata["tokenizer.chat_template"]
        return Jinja2ChatFormatter(template, "", "")(messages=messages, **switches).prompt

    return render


def _blank(llm: Any) -> Callable[[int], bool]:
    return lambda token: not llm.detokenize([token], special=True).strip()
