"""Responses of SmolLM2 to neutral prompts that no calibration has seen, and a probe's readings.

Responses are generated once and kept under `.cache/alarms` as token ids, which depend on the model
and the prompts alone (about an hour on two cores; resumable). A probe then reads them through the
offline door, at the same points as during generation, and its projections are kept beside them: a
new probe costs minutes, a new detector seconds. Responses that come with the repository, in
`benchmarks/answers`, are taken from there.

`python benchmarks/readings.py` generates what is missing and reads it with --probe.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_llamacpp.speaker import LlamaSpeaker

from emoguard import Guard
from emoguard.fit.answers import AnswerFile
from emoguard.fit.corpora import CALIBRATING, neutral_prompts
from emoguard.fit.responses import Sampling, respond
from emoguard.probe.probe import Probe
from emoguard.runtime.attach import find
from emoguard.runtime.speaker import Generated
from tests.support.models import load_llama, smollm2_gguf

CACHE = Path(__file__).parents[1] / ".cache" / "alarms"
KEPT = Path(__file__).parent / "answers"
WANTED = {64: 1000, 256: 300, 1024: 100}
"""Responses by the most tokens they may have."""


class HeldOut:
    """SmolLM2 with its stored responses, one file per limit of tokens."""

    def __init__(self, threads: int = 2) -> None:
        self._llm = load_llama(
            smollm2_gguf(), n_ctx=2048, n_threads=threads, n_threads_batch=threads
        )
        plugin, inner = find(self._llm)
        self._door = plugin.open_residuals(inner)
        self.identity = self._door.identity
        self._prompts = neutral_prompts()[CALIBRATING:]
        CACHE.mkdir(parents=True, exist_ok=True)

    def generate(self, tokens: int, wanted: int) -> None:
        """Generate the missing responses of one limit."""

        def source(start: int) -> Iterator[Generated]:
            for n in count(start):
                # The same prompts for each limit, with other seeds.
                prompt, seed = self._prompts[n % len(self._prompts)], 100_000 * tokens + n
                yield from respond(LlamaSpeaker(self._llm), [prompt], Sampling(tokens), seed)

        def enough(answers: list[Generated]) -> bool:
            sys.stderr.write(f"\r{tokens} tokens: {len(answers)}/{wanted}")
            return len(answers) >= wanted

        self._answers(tokens).extend(source, enough)
        sys.stderr.write("\n")

    def read(self, probe: Probe, tokens: int, most: int | None = None) -> list[np.ndarray]:
        """Return raw projections (tokens, labels) of each response of one limit, `most` at most.

        Rows are those of live generation: the t-th token's is the residual it was chosen from.
        """
        answers = [each for each in self._answers(tokens).answers if each.token_ids][:most]
        path = CACHE / f"rows-{digest(probe)}-{tokens}.npz"
        kept = load(path) if path.exists() else []
        if len(kept) < len(answers):
            for n in range(len(kept), len(answers)):
                kept.append(self._project(probe, answers[n]))
                sys.stderr.write(f"\rreading, {tokens} tokens: {n + 1}/{len(answers)}")
            sys.stderr.write("\n")
            save(path, kept)
        return kept[:most]

    def _project(self, probe: Probe, answer: Generated) -> np.ndarray:
        return probe.project(answer.residuals(self._door, probe.layers))

    def _answers(self, tokens: int) -> AnswerFile:
        """Open the responses of one limit, bound to the model, the prompts and the sampling."""
        context = Sampling(tokens).context(self.identity.template, self._prompts)
        bound = {"model": self.identity.digest, **context}
        path, kept = CACHE / f"answers-{tokens}.jsonl", KEPT / f"heldout-{tokens}.jsonl.gz"
        if kept.exists() and not path.exists():
            path.write_bytes(gzip.decompress(kept.read_bytes()))
        return AnswerFile(path, bound)


def digest(probe: Probe) -> str:
    """Return a name for the readings of a probe that depends on its numbers, not on its file."""
    content = hashlib.sha256(repr(probe.layers).encode())
    for array in (probe.read, probe.centre, probe.weights):
        content.update(array.tobytes())
    return content.hexdigest()[:8]


def save(path: Path, rows: list[np.ndarray]) -> None:
    """Write arrays (tokens, labels), whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, rows=np.concatenate(rows), lengths=[len(each) for each in rows])
    part.rename(path)


def load(path: Path) -> list[np.ndarray]:
    """Load arrays written by `save`."""
    with np.load(path) as file:
        return np.split(file["rows"], np.cumsum(file["lengths"])[:-1])


def open_guard(probe: str = "") -> Guard:
    """Return the guard of a probe file, by default the shipped one for SmolLM2."""
    return Guard.load(probe or "smollm2-135m-instruct")


def main() -> None:
    """Generate and read all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    probe, held = open_guard(options.probe).probe, HeldOut(options.threads)
    for tokens, wanted in WANTED.items():
        held.generate(tokens, min(wanted, options.most or wanted))
    for tokens in WANTED:
        held.read(probe, tokens, options.most)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of scripts that read responses."""
    parser.add_argument("--probe", default="", help="probe file; default: the shipped")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, help="responses per limit, to try it out")


if __name__ == "__main__":
    main()
