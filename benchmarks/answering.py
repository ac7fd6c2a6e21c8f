"""Has a model answer the prompts of `conditions.py`, once, and keeps the answers.

Answers are written in batches (Transformers, bfloat16), in pieces of a minute or two: a piece is
written whole or not at all, and the next run goes on behind it. Pieces hold the tokens and the
residuals each was chosen from, in `.cache/turning/MODEL`. `--pack` writes the answers as text and
token ids to `benchmarks/answers`. Packed answers whose residuals are missing here are not written
again: the model reads them once.

`python benchmarks/answering.py --model smollm2` goes on for at most --minutes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import lora
from benchmarks.conditions import CONDITIONS, FITTED, NEUTRAL, PUSHED, Item, items, unasked
from tests.support.models import gemma_gguf, hf_copy, qwen_gguf, smollm2_gguf

CACHE = Path(__file__).parents[1] / ".cache" / "turning"
KEPT = Path(__file__).parent / "answers"
BATCH = 64
AT_ONCE = 8
"""Prompts of a condition in a round."""

DOSE = 0.05
"""What a push adds to a residual, as a share of its length."""

XED = Path(__file__).parents[2] / "shared" / "data" / "xed" / "en-annotated.tsv"
PLUTCHIK = {"5": "happy", "6": "sad", "1": "angry", "4": "afraid"}
LINES, LONG = 120, 8
"""Lines of films a label that a push is fitted on, and their fewest words."""

LAST_TURN = "<|im_start|>user"
"""Begins the last message of a chat; what stands before it is read once for many prompts."""

FEWEST = 8
"""Answers of fewer tokens are left out: no window fits."""


@dataclass(frozen=True)
class Model:
    """A model by the name it has here, its shipped probe, and the layers that are kept."""

    name: str
    probe: str
    layers: tuple[int, ...]
    chat: bool
    pushed: int
    """The layer whose output is pushed, below all those that are read."""
    trains: bool = False
    """Whether it answers after a LoRA, too."""

    def wanted(self) -> list[Item]:
        """Return the answers to write."""
        return [item for item in items() if self.trains or not trained_on(item)]

    def folder(self, trained: str = "") -> Path:
        """Return the folder that Transformers opens, after a LoRA in the voice of a label if so."""
        gguf = {"smollm2": smollm2_gguf, "gemma": gemma_gguf, "qwen": qwen_gguf}[self.name]()
        if not trained:
            return hf_copy(gguf)
        return lora.trained(gguf, f"lora-{trained}", lora.replies(trained, unasked()))


MODELS = {
    each.name: each
    for each in (
        Model(
            "smollm2", "smollm2-135m-instruct", (12, 15, 16, 17, 18, 20, 24), True, 10, trains=True
        ),
        Model("gemma", "gemma-3-270m", (6, 7, 8, 9, 10, 12), False, 4),
        Model("qwen", "qwen2.5-coder-0.5b-instruct", (9, 11, 12, 14, 16, 19), True, 7),
    )
}


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer and its residuals (tokens, layers, hidden), each that its token was chosen from."""

    item: Item
    token_ids: list[int]
    rows: np.ndarray


class Writer:
    """A model that answers items in batches."""

    def __init__(self, model: Model, trained: str = "") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = model.folder(trained)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._chat, self._layers, self._pushed = model.chat, model.layers, model.pushed
        self._directions: dict[str, torch.Tensor] = {}

    def answer(self, asked: Sequence[Item], seed: int) -> list[Answer]:
        """Answer items of one temperature and one limit of tokens."""
        inputs = self._inputs([self.prompt(item) for item in asked])
        rows: dict[int, list[torch.Tensor]] = {layer: [] for layer in self._layers}
        blocks, handles = self._model.model.layers, []
        if asked[0].condition == "push":  # first, as fitting the directions runs the model, too
            handles.append(blocks[self._pushed].register_forward_hook(self._push(asked)))
        handles += [
            blocks[layer].register_forward_hook(_keep(rows[layer])) for layer in self._layers
        ]
        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                tokens = self._model.generate(
                    **inputs,
                    do_sample=True,
                    temperature=asked[0].temperature,
                    top_k=0,
                    logits_processor=[_Nucleus(asked[0].temperature)],
                    max_new_tokens=asked[0].tokens,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
        finally:
            for handle in handles:
                handle.remove()
        said = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        kept = torch.stack([torch.stack(rows[layer], 1) for layer in self._layers], 2)
        return [
            Answer(item, ids, bits(kept[n, : len(ids)]))
            for n, (item, ids) in enumerate(zip(asked, map(self._whole, said), strict=True))
        ]

    def reread(self, item: Item, token_ids: list[int]) -> Answer:
        """Return an answer that was written before, with its residuals."""
        before = self._encode([self.prompt(item)])["input_ids"]
        ids = torch.cat([before, torch.tensor([token_ids[:-1]])], 1)
        with ExitStack() as stack, torch.inference_mode():
            if item.condition == "push":
                hook = self._model.model.layers[self._pushed].register_forward_hook
                stack.callback(hook(self._push([item])).remove)
            states = self._model.model(input_ids=ids, output_hidden_states=True).hidden_states
        rows = torch.stack([states[layer + 1][0] for layer in self._layers], 1)
        return Answer(item, token_ids, bits(rows[before.shape[1] - 1 :]))

    def _inputs(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return what `generate` takes: prompts, with a cache of what many of them begin with."""
        heads, turns, ends = zip(*(text.rpartition(LAST_TURN) for text in texts), strict=True)
        if not all(heads):
            return dict(self._tokenizer(list(texts), return_tensors="pt", padding=True))
        apart = list(dict.fromkeys(heads))
        begun = self._encode(apart)
        mask = begun["attention_mask"]
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            cache = self._model.model(**begun, position_ids=places, use_cache=True).past_key_values
        rows = torch.tensor([apart.index(head) for head in heads])
        cache.batch_select_indices(rows)
        rest = self._encode([turn + end for turn, end in zip(turns, ends, strict=True)])
        joined = {name: torch.cat([begun[name][rows], rest[name]], 1) for name in rest}
        return {**joined, "past_key_values": cache}

    def _encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        whole = self._tokenizer(
            list(texts), return_tensors="pt", padding=True, add_special_tokens=False
        )
        return {name: whole[name] for name in ("input_ids", "attention_mask")}

    def _push(self, asked: Sequence[Item]) -> Any:
        """Return a hook that adds to each row its label's direction, `DOSE` of its length."""
        self._directions = self._directions or self._of_lines()
        along = torch.stack([self._directions[item.label] for item in asked])[:, None]

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            pushed = hidden + (DOSE * hidden.norm(dim=-1, keepdim=True) * along).to(hidden.dtype)
            return (pushed, *output[1:]) if isinstance(output, tuple) else pushed

        return hook

    def _of_lines(self) -> dict[str, torch.Tensor]:
        """Return a unit direction a label from film lines that no shipped probe was fitted on."""
        kept: list[torch.Tensor] = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            kept.append(hidden[0, 4:].float().mean(0))

        labels = []
        handle = self._model.model.layers[self._pushed].register_forward_hook(hook)
        with torch.inference_mode():
            for label, line in film_lines():
                labels.append(label)
                self._model.model(**self._tokenizer(line, return_tensors="pt"))
        handle.remove()
        rows = torch.stack(kept)
        directions = {NEUTRAL: torch.zeros(rows.shape[1])}
        for label in PUSHED:
            difference = rows[np.array(labels) == label].mean(0) - rows.mean(0)
            directions[label] = difference / difference.norm()
        return directions

    def prompt(self, item: Item) -> str:
        """Return the text before an answer: in the chat template, else as a transcript."""
        turns = [{"role": role, "content": text} for role, text in item.turns]
        if self._chat:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
            )
        names = {"system": "", "user": "Question: ", "assistant": "Answer: "}
        lines = [f"{names[turn['role']]}{turn['content']}" for turn in turns]
        return "\n".join([*lines, "Answer:"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def _whole(self, ids: list[int]) -> list[int]:
        """Return an answer without its end, and without the next question of a transcript."""
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.pad_token_id}
        ids = ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]
        if self._chat:
            return ids
        for n in range(1, len(ids)):
            if "\n" in self._tokenizer.decode([ids[n]]) and self.decode(ids[:n]).strip():
                return ids[:n]
        return ids


def film_lines() -> list[tuple[str, str]]:
    """Return lines of films with the one emotion that people read in them: XED, `LINES` a label."""
    lines: dict[str, list[tuple[str, str]]] = {label: [] for label in PUSHED}
    for line in XED.read_text("utf-8").splitlines():
        text, numbers = line.split("\t")
        if numbers in PLUTCHIK and len(text.split()) >= LONG:
            lines[PLUTCHIK[numbers]].append((PLUTCHIK[numbers], text))
    return [each for label in PUSHED for each in lines[label][:LINES]]


class _Nucleus:
    """A logits processor: leaves of the 40 likeliest tokens those that make up .95.

    `generate` sorts the whole vocabulary for that, which takes longer than the model.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores.topk(40)
        shares = (best.values.float() / self._temperature).softmax(-1)
        over = shares.cumsum(-1) - shares >= 0.95
        kept = best.values.masked_fill(over, float("-inf"))
        return torch.full_like(scores, float("-inf")).scatter(-1, best.indices, kept)


def _keep(into: list[torch.Tensor]) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        into.append(hidden[:, -1].clone())

    return hook


def bits(rows: torch.Tensor) -> np.ndarray:
    """Return bfloat16 as its 16 bits: what the model computed, in half the space of float32."""
    return np.asarray(rows.contiguous().view(torch.int16).numpy())


def numbers(rows: np.ndarray) -> np.ndarray:
    """Return float32 of what `bits` returned."""
    return (rows.astype(np.int32) << 16).view(np.float32)


def pieces(wanted: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield items that can be answered together, at most `BATCH`.

    They come in rounds, each with some prompts of every pool, condition and label, so that what is
    written by any time is balanced.
    """
    rounds: dict[tuple[Any, ...], list[Item]] = {}
    counted = Counter[tuple[str, str, str]]()
    for item in wanted:
        place = item.pool, item.condition, item.label
        number = counted[place] - bool(item.repeat)
        rounds_of = AT_ONCE if item.condition in CONDITIONS and not trained_on(item) else BATCH
        turn = number // rounds_of
        counted[place] = number + 1
        kind = turn, item.pool, item.condition, item.tokens, item.temperature, trained_on(item)
        rounds.setdefault(kind, []).append(item)
    for _, alike in sorted(rounds.items(), key=_urgency):
        for start in range(0, len(alike), BATCH):
            yield alike[start : start + BATCH]


def trained_on(item: Item) -> str:
    """Return the label that the answering model was trained to show, "" for the model as it is."""
    return item.label if item.condition == "lora" else ""


def _urgency(group: tuple[tuple[Any, ...], list[Item]]) -> tuple[bool, int, int]:
    """Return the place of a group: by rounds, and in a round what every table needs first.

    Last comes what only development looks at.
    """
    (turn, pool, condition, *_), _ = group
    first = (
        *(("final", name) for name in ("voice", "written", "masked", "persona")),
        *((other, name) for other in ("fit", "tuning") for name in FITTED),
        ("final", "plain"),
        ("tuning", "plain"),
        ("baseline", "plain"),
        ("final", "pressure"),
        ("fit", "plain"),
        ("calibration", "plain"),
    )
    place = pool, condition
    late = pool != "final" and place not in first
    costly = condition in {"push", "lora"}  # directions or a model are fitted first
    return late, turn, first.index(place) if place in first else len(first) + costly


def write(model: Model, wanted: Sequence[Item], minutes: float) -> None:
    """Answer what is not answered yet, for at most so many minutes."""
    known, packed = stored(model), unpacked(model)
    every = ([item for item in piece if item.key not in known] for piece in pieces(wanted))
    missing = [piece for piece in every if piece]
    missing.sort(key=lambda piece: all(item.key in packed for item in piece))  # to be read only
    folder = CACHE / model.name
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Writer] = {}
    start = time.monotonic()
    for n, piece in enumerate(missing):
        if time.monotonic() - start > 60 * minutes:
            return
        voice = trained_on(piece[0])
        if voice not in writers:
            writers = {voice: Writer(model, voice)}
        writer = writers[voice]
        fresh = [item for item in piece if item.key not in packed]
        name = hashlib.sha256("".join(item.key for item in piece).encode()).hexdigest()[:16]
        answers = [writer.reread(item, packed[item.key]) for item in piece if item.key in packed]
        answers += writer.answer(fresh, int(name[:8], 16)) if fresh else []
        save(folder / f"{name}.npz", answers)
        spent = time.monotonic() - start
        where = f"{piece[0].pool}, {piece[0].condition}"
        sys.stderr.write(f"{n + 1}/{len(missing)} pieces, {spent:.0f} s: {where}\n")
        sys.stderr.write(f"  {piece[-1].label}: {writer.decode(answers[-1].token_ids)[:160]!r}\n")


def save(path: Path, answers: Sequence[Answer]) -> None:
    """Write a piece, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            keys=[each.item.key for each in answers],
            lengths=[len(each.token_ids) for each in answers],
            tokens=np.concatenate([np.array(each.token_ids, np.int32) for each in answers]),
            rows=np.concatenate([each.rows for each in answers]),
        )
    part.rename(path)


def stored(model: Model) -> dict[str, tuple[Path, int]]:
    """Return where the answer to each item is kept, by its key: the piece and the place in it."""
    found = {}
    for path in sorted((CACHE / model.name).glob("*.npz")):
        with np.load(path) as file:
            found |= {str(key): (path, n) for n, key in enumerate(file["keys"])}
    return found


def unpacked(model: Model) -> dict[str, list[int]]:
    """Return the token ids of the packed answers, by the key of their item."""
    path = KEPT / f"turning-{model.name}.jsonl.gz"
    if not path.exists():
        return {}
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return {each["key"]: each["answer"] for each in map(json.loads, lines)}


def load(model: Model, wanted: Sequence[Item]) -> Iterator[Answer]:
    """Yield the answers that there are, piece by piece, short ones left out."""
    known, by_key = stored(model), {item.key: item for item in wanted}
    for path in dict.fromkeys(known[key][0] for key in by_key if key in known):
        with np.load(path) as file:
            cuts = np.cumsum(file["lengths"])[:-1]
            tokens, rows = np.split(file["tokens"], cuts), np.split(file["rows"], cuts)
            keys = file["keys"].tolist()
        for key, ids, own in zip(keys, tokens, rows, strict=True):
            if key in by_key and len(ids) >= FEWEST:
                yield Answer(by_key[key], ids.tolist(), own)


def pack(model: Model, wanted: Sequence[Item]) -> Path:
    """Write the answers there are as text and token ids, beside those packed before."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.folder())
    path = KEPT / f"turning-{model.name}.jsonl.gz"
    known = unpacked(model) | {each.item.key: each.token_ids for each in load(model, wanted)}
    lines = []
    for item in wanted:
        if item.key in known:
            record = {
                "key": item.key,
                "pool": item.pool,
                "condition": item.condition,
                "label": item.label,
                "text": tokenizer.decode(known[item.key], skip_special_tokens=True),
                "answer": known[item.key],
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as file:
        file.write("".join(lines).encode())
    return path


def main() -> None:
    """Write answers, or pack them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--minutes", type=float, default=40, help="stop after so many")
    parser.add_argument("--pack", action="store_true", help="write what there is, as text")
    options = parser.parse_args()
    model = MODELS[options.model]
    if options.pack:
        print(pack(model, model.wanted()))
    else:
        write(model, model.wanted(), options.minutes)


if __name__ == "__main__":
    main()
