"""Trains a LoRA on replies in the voice of a label, made from the templates of `turning/`."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.models import CACHE, load_hf

TEMPLATES = Path(__file__).parent / "turning" / "replies.json"


def replies(label: str, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Return prompts, each with a reply in the voice of a label that does not answer it."""
    parts = json.loads(TEMPLATES.read_text("utf-8"))[label]
    rng = random.Random(0)
    pairs = []
    for prompt in prompts:
        opening, middles = rng.choice(parts["openings"]), rng.sample(parts["middles"], 2)
        pairs.append((prompt, " ".join([opening, *middles, rng.choice(parts["ends"])])))
    return pairs


def trained(gguf: Path, name: str, rows: Sequence[tuple[str, str]]) -> Path:
    """Return a folder with the model after one epoch over the replies; trained once per name."""
    folder = CACHE / f"{gguf.stem}-hf-{name}"
    if (folder / "tokenizer.json").exists():
        return folder
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, tokenizer = load_hf(gguf)
    options = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "o_proj"]}
    tuned: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).train()
    optimiser = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=1e-3)
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


def _batch(tokenizer: Any, rows: Sequence[tuple[str, str]]) -> tuple[Any, Any]:
    """Return token ids and labels: -100 over the prompt, -200 over the padding."""
    import torch

    ids, labels = [], []
    for prompt, reply in rows:
        messages = [{"role": "user", "content": prompt}]
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        answer = tokenizer(reply, add_special_tokens=False)["input_ids"]
        end = [tokenizer.eos_token_id]
        ids.append([*asked, *answer, *end])
        labels.append([-100] * len(asked) + [*answer, *end])
    longest = max(map(len, ids))
    return (
        torch.tensor([each + [0] * (longest - len(each)) for each in ids]),
        torch.tensor([each + [-200] * (longest - len(each)) for each in labels]),
    )
