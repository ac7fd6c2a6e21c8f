"""Turns a validation into plain data: for the probe file, and as JSON beside the card."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emoguard.validate.verdict import LEAST

if TYPE_CHECKING:
    from emoguard.validate.agreement import Agreement, Invariance
    from emoguard.validate.comparison import Pair
    from emoguard.validate.estimate import Estimate
    from emoguard.validate.onpolicy import OnPolicy
    from emoguard.validate.validation import Validation

RULE = (
    f"usable: the whole 95 % interval of the AUROC on corpora left out lies above {LEAST:.2f} and "
    "above what the text alone gives; weak: it lies above what directions without meaning reach; "
    "untested: no second corpus has the label, so that nothing but its writer was tested; else not "
    "usable"
)


@dataclass(frozen=True)
class Blocks:
    """The measurements that need the model itself; each may be missing."""

    on_policy: OnPolicy | None = None
    agreements: tuple[Agreement, ...] = ()
    invariance: Invariance | None = None


NOTHING = Blocks()
"""Stands for a validation without responses."""


def plain(record: Any) -> Any:
    """Return records as JSON data: numbers to four decimals, null if they are not finite."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(value) for value in record]
    if isinstance(record, float):
        return round(record, 4) if math.isfinite(record) else None
    return record


def summary(result: Validation, blocks: Blocks) -> dict[str, Any]:
    """Return the part for the probe file: verdicts, and the evidence per label.

    `recipe` numbers were measured on texts that the directions tested were not fitted on; `file`
    numbers with the directions of the file itself.
    """
    left_out = result.left_out
    recipe = {
        target: {
            "transfer": None if e.recipe is None else _triple(e.recipe),
            "words": plain(e.words),
            "held_out_topics": _triple(e.held_out),
            **_human_of(result, target),
        }
        for target, e in result.evidence.items()
    }
    return {
        "verdicts": dict(result.verdicts),
        "rule": RULE,
        "meaningless": plain({"recipe": result.chance.recipe, "file": result.chance.file}),
        "corpora": dict(result.corpora),
        "leaks": dict(result.leaks),
        "recipe": recipe,
        "transfer_top1": None if left_out is None else _shown(left_out.top1, left_out.top1_chance),
        "transfer_auroc": None if left_out is None else _shown(left_out.macro, 0.5),
        "file": {
            target: {"fitted_texts": _triple(e)} | _on_policy_of(blocks, target)
            for target, e in result.file.items()
        },
    }


def _human_of(result: Validation, target: str) -> dict[str, Any]:
    pair = result.human.targets.get(target) if result.human else None
    return {} if pair is None else {"human": _shown(pair, 0.5)}


def _on_policy_of(blocks: Blocks, target: str) -> dict[str, Any]:
    if blocks.on_policy is None or target not in blocks.on_policy.labels:
        return {}
    each = blocks.on_policy.labels[target]
    return {
        "on_policy": {
            "certified": each.certified,
            "persona": _triple(each.monitor.persona),
            "benign": _triple(each.monitor.benign),
            "persona_words": _triple(each.words[each.better].persona),
        }
    }


def _shown(pair: Pair, chance: float) -> dict[str, Any]:
    return {
        "model": _triple(pair.model),
        "words": _triple(pair.words),
        "chance": plain(chance),
    }


def _triple(estimate: Estimate) -> list[float | None]:
    return [
        round(x, 3) if math.isfinite(x) else None
        for x in (estimate.value, estimate.low, estimate.high)
    ]
