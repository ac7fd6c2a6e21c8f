"""Follows a watched generation: shows every token with its scores as soon as they exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from emoguard.errors import EmoGuardError
from emoguard.records import Report, Request
from emoguard.runtime.pieces import Pieces
from emoguard.runtime.session import REQUEST
from emoguard.runtime.speaker import Prompt, Speaker, answer
from emoguard.runtime.watch import Watch
from emoguard.steering.plan import Plan

Scores = Sequence[float | None]
Show = Callable[[str, Scores], None]


class Stream:
    """Shows each token of a watch's rows once, in order.

    `show` gets a token's text and its scores in the order of `watch.guard.labels`.
    """

    def __init__(self, watch: Watch, pieces: Pieces, show: Show) -> None:
        self.shown = ""
        self._count = 0
        self._watch = watch
        self._pieces = pieces
        self._show = show

    def tick(self) -> None:
        """Show the tokens of the open response since the last call."""
        reading = self._watch.live()
        if reading is not None:
            rows: list[Scores] = reading.rows.tolist()
            rows[: reading.attention_sinks] = [()] * min(reading.attention_sinks, len(rows))
            self._take(zip(reading.token_ids.tolist(), rows, strict=True))

    def finish(self, report: Report, text: str) -> None:
        """Show the rest of the response, even if reading failed and only its text remains."""
        self._take((token.id, () if token.attention_sink else token.z) for token in report.tokens)
        if text.startswith(self.shown) and len(text) > len(self.shown):
            self._show(text[len(self.shown) :], ())

    def _take(self, rows: Iterable[tuple[int, Scores]]) -> None:
        for token_id, scores in list(rows)[self._count :]:
            self._count += 1
            piece = self._pieces.add(token_id)
            self.shown += piece
            if piece:
                self._show(piece, scores)


def respond(
    speaker: Speaker,
    watch: Watch,
    prompt: Prompt,
    show: Show,
    plan: Plan | None = None,
) -> tuple[str, Report]:
    """Let the watched model of a speaker answer, showing every token; return text and report.

    `plan` steers the answer.

    Raises:
        EmoGuardError: the runtime refuses the prompt, or made no report on it.

    """
    stream = Stream(watch, Pieces(speaker.decode), show)
    request = Request(scores="tokens", plan=plan)
    token = REQUEST.set(request)
    try:
        text = answer(speaker, prompt, stream.tick)
    finally:
        REQUEST.reset(token)
    report = next((r for r in reversed(watch.reports) if r.id == request.id), None)
    if report is None:
        raise EmoGuardError(
            "the response was not watched: is EMOGUARD_DISABLE=1 set? Unset it to see scores"
        )
    stream.finish(report, text)
    return text, report
