"""Does a plan do the same in Transformers, in llama.cpp, and as an exported control vector?

Method. The same F16 file runs in llama.cpp and, dequantised to float32, in Transformers. For each
prompt and plan the change of logits, steered minus plain, is compared after the prompt (first turn)
and after a longer prompt that begins with it (second turn). In llama.cpp the second turn follows a
steered answer to the first, whose prefix cache it finds; Transformers computes it from nothing.
Rows: the lowest cosine and the relative errors (norm of the difference over norm of the change)
over prompts and plans. `plain` is the relative difference of the logits unsteered.

llama.cpp rounds what it multiplies with F16 weights to F16, and keeps its cache in F16;
Transformers computes in float32. Rows with `f32` are the same weights written as float32, with a
float32 cache and without flash attention: they say how much of the difference is that rounding.

`export`: a control vector written by `emoguard export` is read back from its file and given to
llama.cpp itself, on a context without our callback; its block outputs are compared with those under
the same plan on all tokens: the largest relative difference of their change at and above the first
steered layer, and of the outputs below it, where there must be none.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from emoguard_llamacpp.controlvector import control_vector, write

from benchmarks.measure import Row, arguments, show
from emoguard import Guard, Plan, Policy, Request, attach
from emoguard.fit.responses import calibrate
from emoguard.runtime.attach import find, shipped
from emoguard.steering.policy import SteeringPolicy
from tests.support.models import gemma_gguf, load_hf, load_llama, quantised, qwen_gguf, smollm2_gguf

MODELS = {"smollm2": smollm2_gguf, "gemma": gemma_gguf, "qwen": qwen_gguf}
PLANS = {
    "add": Plan(add={"happy": 0.1}),
    "limits": Plan(cap={"happy": 0.3, "calm": 0.4}, floor={"sad": 0.8}),
    "both": Plan(add={"sad": 0.06, "calm": -0.04}, cap={"angry": 0.2}),
}
PROMPTS = (
    "The committee met on Thursday and discussed the new timetable for the buses.",
    "My brother lost his keys again, so we waited in front of the house.",
    "Explain in two sentences how bread rises in the oven.",
    "The last train had left, and the station was empty.",
    "She opened the letter, read it twice and put it back.",
    "List three things to check before a long journey by car.",
    "The children built a tower of wooden blocks on the kitchen floor.",
    "Why do leaves change their colour in autumn?",
)
IN_FLOAT32 = {"type_k": 0, "type_v": 0, "flash_attn": False}  # 0 is GGML_TYPE_F32
SECOND = " After that, everybody went home and nobody spoke about it for a week. Then"


def guard_for(model: Any, calibration: Any = None, **options: Any) -> Guard:
    """Return the shipped probe, calibrated for this file by the numbers of `calibration`."""
    door = find(model)[0].open_residuals(model, **options)
    probe = shipped(door).probe
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.2))
    return Guard(probe, [calibration(door, probe)], policy)


def own_answers(llm: Any) -> Any:
    """Return a function that calibrates any door on the same answers."""
    from emoguard.runtime.speaker import Generated

    answers = []
    for n, prompt in enumerate(PROMPTS):
        ids = llm.tokenize(prompt.encode())
        llm.set_seed(n)
        answers.append(Generated(ids, list(islice(llm.generate(ids, temp=0.7), 48))))
    return lambda door, probe: calibrate(door, probe, answers)


def llama_logits(llm: Any, ids: Sequence[int], plan: Plan | None, tokens: int = 1) -> NDArray[Any]:
    """Return the logits after `ids`; generates `tokens` tokens."""
    from emoguard_llamacpp import ctypes_llama

    tokens_made = llm.generate(list(ids), temp=0.0, emoguard=Request(plan=plan))
    next(tokens_made)
    logits = ctypes_llama.last_logits(llm, llm.ctx)
    list(islice(tokens_made, tokens - 1))
    tokens_made.close()
    return logits


def hf_logits(model: Any, ids: Sequence[int], plan: Plan | None) -> NDArray[Any]:
    """Return the logits after `ids`."""
    import torch

    tokens = torch.tensor([list(ids)])
    out = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=1,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        emoguard=Request(plan=plan),
    )
    return np.asarray(out.logits[0][0].float().numpy())


def runtimes(name: str, prompts: Sequence[str], kind: str) -> list[Row]:
    """Compare the change of logits in both runtimes, llama.cpp computing in `kind`."""
    path = quantised(MODELS[name](), "F16")
    model, tokenizer = load_hf(path)
    llm = load_llama(path) if kind == "f16" else load_llama(quantised(path, "F32"), **IN_FLOAT32)
    calibration = own_answers(llm)
    changes: dict[str, list[tuple[float, float]]] = {"first": [], "second": []}
    plain: list[float] = []
    with (
        attach(llm, guard_for(llm, calibration), backend="callback") as watch,
        attach(model, guard_for(model, calibration, tokenizer=tokenizer), tokenizer=tokenizer),
    ):
        for prompt in prompts:
            first = llm.tokenize(prompt.encode())
            second = llm.tokenize((prompt + SECOND).encode())
            turns = {"first": first, "second": second}
            ours = {turn: hf_logits(model, ids, None) for turn, ids in turns.items()}
            theirs = {}
            for turn, ids in turns.items():
                llm.reset()
                theirs[turn] = llama_logits(llm, ids, None)
                plain.append(relative(theirs[turn], ours[turn]))
            for plan in PLANS.values():
                llm.reset()
                for turn, ids in turns.items():
                    changed = llama_logits(llm, ids, plan, tokens=12) - theirs[turn]
                    if watch.reports[-1].receipt is None:
                        raise RuntimeError("llama.cpp was not steered")
                    wanted = hf_logits(model, ids, plan) - ours[turn]
                    changes[turn].append((cosine(changed, wanted), relative(changed, wanted)))
    suffix = f"_{name}_{kind}"
    rows = [Row(f"plain_relative_error_max{suffix}", max(plain), None, None, "")]
    for turn, pairs in changes.items():
        cosines, errors = zip(*pairs, strict=True)
        rows += [
            Row(f"{turn}_logit_change_cosine_min{suffix}", min(cosines), None, None, ""),
            Row(
                f"{turn}_logit_change_error_median{suffix}",
                float(np.median(errors)),
                None,
                None,
                "",
            ),
            Row(f"{turn}_logit_change_error_max{suffix}", max(errors), None, None, ""),
        ]
    return rows


def exported(name: str) -> list[Row]:
    """Compare an exported vector, loaded by llama.cpp itself, with the plan it was made of."""
    llm = load_llama(quantised(MODELS[name](), "F16"))
    guard = guard_for(llm, own_answers(llm))
    dose, label = 0.05, "happy"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.gguf"
        write(path, control_vector(guard.probe, list(guard.calibrations), label, dose), "any")
        vectors = read_vectors(path)
    steering = guard.site(guard.calibrations[0].identity).steering(
        Plan(add={label: dose}, prompt=True)
    )
    assert steering is not None
    blocks = guard.probe.model_layers - 1
    ids = llm.tokenize((PROMPTS[0] + SECOND).encode())
    plain = block_outputs(llm, ids, blocks)
    ours = block_outputs(llm, ids, blocks, steering=steering)
    theirs = block_outputs(llm, ids, blocks, vectors=vectors)
    first = steering.layers[0]
    change = [relative(theirs[n] - plain[n], ours[n] - plain[n]) for n in range(first, blocks)]
    below = max(float(np.abs(theirs[n] - plain[n]).max()) for n in range(first))
    suffix = f"_{name}"
    return [
        Row(f"export_change_error_max{suffix}", max(change), None, None, ""),
        Row(f"export_change_below{suffix}", below, None, None, ""),
    ]


def read_vectors(path: Path) -> dict[int, NDArray[np.float32]]:
    """Return the directions of a control-vector file by layer."""
    from gguf import GGUFReader

    tensors = GGUFReader(path).tensors
    return {int(t.name.removeprefix("direction.")): np.array(t.data, np.float32) for t in tensors}


def block_outputs(
    llm: Any,
    ids: Sequence[int],
    blocks: int,
    steering: Any = None,
    vectors: dict[int, NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Return the stored outputs of all blocks, (blocks, tokens, hidden)."""
    import llama_cpp
    from emoguard_llamacpp import ctypes_llama
    from emoguard_llamacpp.nodes import Nodes
    from emoguard_llamacpp.steer import Steer
    from emoguard_llamacpp.tap import Tap

    hidden = llm.n_embd()
    tap = Tap(range(blocks), hidden)
    steer = Steer(steering, hidden) if steering else None

    def see(tensor: int) -> None:
        if steer:
            steer.see(tensor)
        tap.see(tensor)

    nodes = Nodes([b"l_out-%d" % block for block in range(blocks)], see)
    with ctypes_llama.own_context(llm, len(ids), len(ids), nodes.answer) as context:
        if vectors:
            buffer = np.zeros((blocks, hidden), np.float32)  # starts at layer 1
            for layer, vector in vectors.items():
                buffer[layer - 1] = vector
            pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            llama_cpp.llama_set_adapter_cvec(context, pointer, buffer.size, hidden, 1, blocks)
        if steer:
            steer.before(len(ids))
        ctypes_llama.decode(context, list(ids))
    nodes.check()
    if steer and steer.fault:
        raise RuntimeError(f"not steered: {steer.fault}")
    return np.array(list(tap.take(len(ids))))


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the cosine of two arrays."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def relative(value: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the norm of the difference over the norm of the wanted value."""
    difference = value.astype(np.float64) - wanted.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(wanted.astype(np.float64)))


def main() -> None:
    """Run both comparisons and print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--models", default="smollm2,gemma")
    parser.add_argument("--kinds", default="f16,f32")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        for kind in options.kinds.split(","):
            rows += runtimes(name, PROMPTS[: options.prompts], kind)
        rows += exported(name)
    show("steering_parity", rows, as_json=options.json)


if __name__ == "__main__":
    main()
