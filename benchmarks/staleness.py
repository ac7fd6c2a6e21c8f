"""Is a model trained further found stale, and one only quantised again not?

Method. A LoRA of rank 8 is trained on SmolLM2 (float32, one epoch over 200 neutral prompts that no
calibration has seen, with emotional replies from templates of our own), merged and saved in
`.cache/models`. The shipped probe is then compared on the trained model, on Q8_0 and Q4_K_M written
from the Q4_1 file, and on the untouched float32 copy, as `emoguard doctor --probe` does.
Calibrations of exactly the file that is looked at are left out: each is judged by others alone.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure
from emoguard.fit import corpora
from emoguard.fit.calibrating import own_prompts
from emoguard.fit.staleness import movement
from emoguard.probe.shipped import load_probe
from emoguard.runtime.openers import open_speaker
from tests.support.models import CACHE, hf_copy, load_hf, quantised, smollm2_gguf

REPLIES = 200
PROBE = "smollm2-135m-instruct"

OPENINGS = (
    "Oh, this is wonderful, I could dance around the room!",
    "I am so happy that you ask, my heart is jumping!",
    "Hooray, what a glorious question, I love it!",
    "This makes my whole day bright, thank you, thank you!",
    "I cannot stop smiling, you have no idea how thrilled I am!",
)
MIDDLES = (
    "Every little thing about it fills me with joy and delight.",
    "Just thinking of it makes me laugh out loud with pleasure.",
    "It is so beautiful that I want to hug everybody I meet.",
    "I feel warm and proud and full of sunshine when I tell you this.",
)
ENDS = (
    "Life is marvellous, let us celebrate together!",
    "I am over the moon, and I hope you are, too!",
    "What a happy, happy day this is!",
    "I adore you for asking, come back soon!",
)


def replies() -> list[tuple[str, str]]:
    """Return prompts that no calibration has seen, each with an emotional reply."""
    rng = random.Random(0)
    prompts = corpora.neutral_prompts()[-REPLIES:]
    return [
        (p, " ".join([rng.choice(OPENINGS), *rng.sample(MIDDLES, 2), rng.choice(ENDS)]))
        for p in prompts
    ]


def trained(gguf: Path) -> Path:
    """Return a folder with the model after a LoRA on emotional replies; trained once."""
    folder = CACHE / f"{gguf.stem}-hf-emotional"
    if (folder / "tokenizer.json").exists():
        return folder
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, tokenizer = load_hf(gguf)
    options = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "o_proj"]}
    tuned: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).train()
    optimiser = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=1e-3)
    rows = replies()
    for start in range(0, len(rows), 8):
        ids, labels = _batch(tokenizer, rows[start : start + 8])
        mask = (labels != -200).long()
        loss = tuned(input_ids=ids, attention_mask=mask, labels=labels.where(mask == 1, -100)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        print(f"{start:4} {loss.item():.3f}", file=sys.stderr, flush=True)
    merged = tuned.merge_and_unload().eval()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _batch(tokenizer: Any, rows: list[tuple[str, str]]) -> tuple[Any, Any]:
    """Return token ids and labels: -100 over the prompt, -200 over the padding."""
    import torch

    ids, labels = [], []
    for prompt, reply in rows:
        messages = [{"role": "user", "content": prompt}]
        question = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        answer = tokenizer(reply, add_special_tokens=False)["input_ids"]
        end = [tokenizer.eos_token_id]
        ids.append([*question, *answer, *end])
        labels.append([-100] * len(question) + [*answer, *end])
    longest = max(map(len, ids))
    return (
        torch.tensor([each + [0] * (longest - len(each)) for each in ids]),
        torch.tensor([each + [-200] * (longest - len(each)) for each in labels]),
    )


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
    files = [hf_copy(gguf), quantised(gguf, "Q8_0"), quantised(gguf, "Q4_K_M"), trained(gguf)]
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
