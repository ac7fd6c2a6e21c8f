"""Is a model trained further found stale, and one only quantised again not?

Method. A LoRA of rank 8 is trained on SmolLM2 (float32, one epoch over 200 neutral prompts that no
calibration has seen, with emotional replies from templates of our own), merged and saved in
`.cache/models`. The shipped probe is then compared on the trained model, on Q8_0 and Q4_K_M written
from the Q4_1 file, and on the untouched float32 copy, as `emoguard doctor --probe` does.
Calibrations of exactly the file that is looked at are left out: each is judged by others alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import lora, measure
from emoguard.fit import corpora
from emoguard.fit.calibrating import own_prompts
from emoguard.fit.staleness import movement
from emoguard.probe.shipped import load_probe
from emoguard.runtime.openers import open_speaker
from tests.support.models import hf_copy, quantised, smollm2_gguf

REPLIES = 200
PROBE = "smollm2-135m-instruct"


def emotional(gguf: Path) -> Path:
    """Return a folder with the model after a LoRA on happy replies; trained once."""
    prompts = corpora.neutral_prompts()[-REPLIES:]
    return lora.trained(gguf, "emotional", lora.replies("happy", prompts))


def judged(path: Path) -> dict[str, Any]:
    """Return the findings of `emoguard doctor --probe` on a model, from other files alone."""
    probe, calibrations = load_probe(PROBE)
    speaker = open_speaker(path, threads=1)
    others = [c for c in calibrations if not c.identity.matches(speaker.door.identity)]
    change = movement(speaker, probe, others, own_prompts())
    farthest = max(range(len(change.labels)), key=lambda n: abs(change.errors[n]))
    return {
        "file": path.name,
        "witness": round(change.witness, 4),
        "label": change.labels[farthest],
        "shift": round(float(change.shift[farthest]), 2),
        "errors": round(float(change.errors[farthest]), 1),
        "moved": change.moved,
    }


def main() -> None:
    """Print one row per file."""
    parser = measure.arguments(__doc__)
    options = parser.parse_args()
    gguf = smollm2_gguf()
    files = [hf_copy(gguf), quantised(gguf, "Q8_0"), quantised(gguf, "Q4_K_M"), emotional(gguf)]
    rows = [judged(path) for path in files]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'file':48} witness  farthest label     z  errors  verdict")
    for row in rows:
        verdict = "stale" if row["moved"] else "not stale"
        print(
            f"{row['file']:48} {row['witness']:.4f}  {row['label']:14} {row['shift']:+.2f} "
            f"{row['errors']:+6.1f}  {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
