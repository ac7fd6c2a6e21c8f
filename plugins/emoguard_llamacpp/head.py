"""Reads and steers each decode of a live context, and turns its residuals into z."""

from __future__ import annotations

from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.site import Site
from emoguard.steering.intervention import Steering
from emoguard_llamacpp import support
from emoguard_llamacpp.reader import READERS, CallbackReader, Reader
from emoguard_llamacpp.scores import Scores
from emoguard_llamacpp.steer import Steer


class Head:
    """Reads what `llm` decodes by `path`, in the scale of `site`.

    `reader` keeps the residuals of the last decode, and `scores` turns them into z.
    """

    def __init__(self, llm: Any, site: Site, path: support.Path) -> None:
        self.reader: Reader = READERS[path](llm, site.readout.layers, site.identity.hidden)
        self.scores = Scores(site.readout)
        self._llm = llm
        self._site = site

    @property
    def path(self) -> str:
        """Return the read path in use."""
        return self.reader.name

    @property
    def steer(self) -> Steer | None:
        """Return the steering of the live session, or None."""
        return self.reader.steer if isinstance(self.reader, CallbackReader) else None

    def start(self) -> None:
        """Start reading. The context's cache is dropped."""
        self.reader.start(self._site.probe.witness.token_ids.tolist())

    def stop(self, *, keep_state: bool) -> None:
        """Stop reading; `keep_state` keeps the cache, for a generation that continues unread."""
        if self._llm.ctx is not None:  # else the model was closed first: its context is gone
            self.reader.stop(keep_state=keep_state)

    def forget(self) -> None:
        """Leave the model as after `reset`, with an empty cache and nothing pending."""
        if self._llm.ctx is None:  # at the end of the process it may be freed before its watch
            return
        self._llm.reset()
        self._llm._ctx.kv_cache_clear()  # noqa: SLF001
        self.reader.before(0)

    def start_steering(self, steering: Steering) -> None:
        """Steer decodes from now on."""
        assert isinstance(self.reader, CallbackReader)
        self.reader.steer = Steer(steering, self._site.identity.hidden)

    def stop_steering(self) -> None:
        """Stop steering."""
        if isinstance(self.reader, CallbackReader):
            self.reader.steer = None

    def check_callback(self, *, goes_on: bool) -> None:
        """Raise EmoGuardError if a generation cannot be read through the callback from its start.

        `goes_on` if it continues from the cache (`reset=False`), which a change of path drops.
        """
        if self.path != "callback" and (goes_on or support.takes_media(self._llm)):
            raise EmoGuardError(
                "the first plan of a watch drops the cache, and reset=False or a chat handler for "
                'images and sound goes on from it: attach with backend="callback"'
            )

    def read_through_callback(self) -> None:
        """Change from the native read to the callback, which can steer; the cache is dropped.

        Raises:
            EmoGuardError: the callback cannot be used.

        """
        reader = CallbackReader(self._llm, self._site.readout.layers, self._site.identity.hidden)
        reader.start(self._site.probe.witness.token_ids.tolist())
        self.reader = reader
        self.forget()
