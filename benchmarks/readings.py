"""Readings of SmolLM2's responses to neutral prompts that no calibration has seen, stored once.

Each response is generated as in production, under a watch, and its raw projections are kept under
`.cache/alarms`: what judges them can then be run again in seconds. Resumable; `python
benchmarks/readings.py` generates what is missing (about half an hour on two cores).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard import Guard, Request, attach
from emoguard.fit.corpora import CALIBRATING, neutral_prompts
from emoguard.fit.responses import Sampling, answer
from emoguard.probe import Probe
from emoguard.registry import shipped_files
from emoguard.session import REQUEST
from tests.models import load_llama, smollm2_gguf

CACHE = Path(__file__).parents[1] / ".cache" / "alarms"
WANTED = {64: 1000, 256: 300, 1024: 150}
"""Responses by the most tokens they may have."""


def shipped_guard() -> Guard:
    """Return the shipped SmolLM2 probe and its calibrations."""
    return Guard.load(str(shipped_files()["smollm2-135m-instruct"]))


def folder(probe: Probe, tokens: int) -> Path:
    """Return where readings of this probe's directions are kept."""
    digest = hashlib.sha256()
    for array in (probe.read, probe.centre, probe.weights):
        digest.update(array.tobytes())
    return CACHE / digest.hexdigest()[:8] / str(tokens)


def stored(probe: Probe, tokens: int) -> list[np.ndarray]:
    """Return the raw projections (tokens, labels) of the stored responses of one limit."""
    found = []
    for path in sorted(folder(probe, tokens).glob("*.npz")):
        with np.load(path) as file:
            found.append(file["rows"])
    return found


def generate(probe: Probe, tokens: int, count: int, threads: int) -> None:
    """Generate the responses of one limit that are not stored yet."""
    place = folder(probe, tokens)
    place.mkdir(parents=True, exist_ok=True)
    prompts = neutral_prompts()[CALIBRATING:]
    missing = [n for n in range(count) if not (place / f"{n:04}.npz").exists()]
    if not missing:
        return
    llm = load_llama(smollm2_gguf(), n_ctx=2048, n_threads=threads, n_threads_batch=threads)
    REQUEST.set(Request(scores="tokens"))
    with attach(llm, Guard(probe)) as watch:
        for n in missing:
            # The same prompts for each limit, with other seeds.
            prompt, seed = prompts[n % len(prompts)], 100_000 * tokens + n
            said = answer(llm, None, prompt, Sampling(tokens), seed)
            # The end-of-text token is read but no part of the answer, as in a calibration.
            scored = watch.reports[-1].tokens[: len(said.token_ids)]
            rows = np.array([token.z for token in scored], np.float32)
            rows = rows.reshape(-1, len(probe.labels))
            part = place / f"{n:04}.part"
            with part.open("wb") as file:
                np.savez(file, rows=rows, prompt=said.prompt_ids, answer=said.token_ids)
            part.rename(place / f"{n:04}.npz")
            sys.stderr.write(f"\r{tokens} tokens: {n + 1}/{count}")
    sys.stderr.write("\n")


def main() -> None:
    """Generate all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=10**6, help="per limit, to try it out")
    options = parser.parse_args()
    probe = shipped_guard().probe
    for tokens, count in WANTED.items():
        generate(probe, tokens, min(count, options.most), options.threads)


if __name__ == "__main__":
    main()
