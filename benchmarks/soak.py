"""Is the report complete the moment a stream ends, a thousand times in a row?

Method. SmolLM2 streams short answers in both runtimes: llama.cpp through `create_chat_completion`,
Transformers through `TextIteratorStreamer` with `generate` in another thread. Whenever the last
piece of text has been taken, the report of this very request must be there with one fresh row per
token. Every tenth stream is abandoned after its first piece and must be reported `cancelled`
(llama.cpp; a Transformers stream cannot be abandoned from outside). Threads and open sessions are
counted at the end.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import Row, arguments, show
from emoguard import Report, Request, attach
from tests.support.models import load_hf, load_llama, smollm2_gguf

PROMPTS = (
    "Name a colour.",
    "What is two plus two?",
    "Say hello to Ana.",
    "Give one word for rain.",
)


def complete(report: Report | None, request: Request) -> bool:
    """Return whether this is the whole report of this request."""
    return (
        report is not None
        and report.id == request.id
        and report.status == "scored"
        and 0 < report.tokens_scored == report.completion_tokens
    )


def soak_llamacpp(responses: int) -> list[Row]:
    """Stream from llama.cpp."""
    late = wrong_cancel = 0
    llm = load_llama(smollm2_gguf())
    threads = threading.active_count()
    with attach(llm) as watch:
        for number in range(responses):
            request = Request()
            stream = llm.create_chat_completion(
                [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
                max_tokens=6,
                stream=True,
                emoguard=request,
            )
            if number % 10 == 9:
                # The first piece carries the role alone; with the second, generation has begun.
                next(stream), next(stream)
                stream.close()
                last = watch.reports[-1]
                wrong_cancel += (last.id, last.status) != (request.id, "cancelled")
                continue
            for _ in stream:
                pass
            late += not complete(watch.reports[-1] if watch.reports else None, request)
            _progress("llama.cpp", number, responses)
        left_open = int(watch.live() is not None)
    return [
        Row("llamacpp_streams", responses, None, None, "streams"),
        Row("llamacpp_incomplete_at_end", late, None, None, "streams"),
        Row("llamacpp_cancelled_wrong", wrong_cancel, None, None, "streams"),
        Row("llamacpp_sessions_left", left_open, None, None, "sessions"),
        Row("llamacpp_threads_left", _more_than(threads), None, None, "threads"),
    ]


def soak_transformers(responses: int) -> list[Row]:
    """Stream from Transformers."""
    from transformers import TextIteratorStreamer

    late = 0
    model, tokenizer = load_hf(smollm2_gguf())
    threads = threading.active_count()
    with attach(model, tokenizer=tokenizer) as watch:
        for number in range(responses):
            request = Request()
            inputs = tokenizer(PROMPTS[number % len(PROMPTS)], return_tensors="pt")
            streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
            how: dict[str, Any] = {"max_new_tokens": 3, "streamer": streamer, "emoguard": request}
            thread = threading.Thread(target=model.generate, kwargs={**inputs, **how})
            thread.start()
            for _ in streamer:
                pass
            late += not complete(watch.reports[-1] if watch.reports else None, request)
            thread.join()
            _progress("Transformers", number, responses)
        left_open = int(watch.live() is not None)
    return [
        Row("transformers_streams", responses, None, None, "streams"),
        Row("transformers_incomplete_at_end", late, None, None, "streams"),
        Row("transformers_sessions_left", left_open, None, None, "sessions"),
        Row("transformers_threads_left", _more_than(threads), None, None, "threads"),
    ]


def _more_than(threads: int) -> int:
    """Return the number of threads beyond those left by loading the model."""
    return threading.active_count() - threads


def _progress(what: str, number: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {number + 1}/{total}" + ("\n" if number + 1 == total else ""))


def main() -> None:
    """Run both, print the table, fail when anything was late."""
    parser = arguments(__doc__)
    parser.add_argument("--responses", type=int, default=1000)
    options = parser.parse_args()
    rows = soak_llamacpp(options.responses) + soak_transformers(options.responses)
    show("soak", rows, as_json=options.json)
    sys.exit(any(row.value for row in rows if not row.name.endswith("_streams")))


if __name__ == "__main__":
    main()
