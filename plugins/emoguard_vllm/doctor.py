"""Diagnoses the installed vLLM for `emoguard doctor`."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import Any

from emoguard_vllm import seams

GROUP = "vllm.general_plugins"


def findings() -> list[tuple[str, str, str]]:
    """Return (part, mark, text) of each finding: does what EmoGuard needs of vLLM exist here?"""
    release = seams.version()
    results = [_release(release)]
    for part, missing in (
        ("vllm V1 runner", seams.missing(v2=False)),
        ("vllm V2 runner", seams.missing(v2=True)),
        ("vllm serve", seams.missing_in_server()),
    ):
        text = f"lacks {', '.join(missing)}" if missing else "all that is needed is there"
        results.append((part, "broken" if missing else "ok", text))
    results.append(_entry())
    return results


def _release(release: str) -> tuple[str, str, str]:
    if seams.is_tested(release):
        return "vllm release", "ok", f"{release} was tested"
    return "vllm release", "to do", f"{release} was not tested: {seams.RELEASES} was"


def _entry() -> tuple[str, str, str]:
    names = {point.name for point in entry_points(group=GROUP)}
    allowed: Any = os.environ.get("VLLM_PLUGINS")
    if "emoguard" not in names:
        return (
            "vllm plug-in",
            "broken",
            f"no entry point of EmoGuard in {GROUP}: install it again",
        )
    if allowed is not None and "emoguard" not in allowed.split(","):
        return "vllm plug-in", "broken", f"VLLM_PLUGINS={allowed} does not name emoguard: add it"
    return "vllm plug-in", "ok", "vLLM loads it in each of its processes"
