"""Diagnoses the read paths of this runtime, and of one file in a child process.

The native read aborts the process on graphs that do not support it: only a child may try.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import llama_cpp
import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.residuals import Residuals
from emoguard_llamacpp import ctypes_llama, support
from emoguard_llamacpp.door import Door
from emoguard_llamacpp.identity import identify
from emoguard_llamacpp.speaker import LlamaSpeaker

TOKENS = tuple(range(3, 19))
"""Token ids to compare the two paths with: any that every model has."""
PATIENCE = 600
"""Seconds a large model may take to load and run once."""


def runtime() -> dict[str, object]:
    """Return the library version, the architectures read natively, and whether ctypes fits."""
    try:
        ctypes_llama.check_layout()
        callback = "works"
    except EmoGuardError as error:
        callback = str(error)
    return {
        "version": llama_cpp.__version__,
        "native": list(support.allow_list().get(llama_cpp.__version__, ())),
        "callback": callback,
    }


def examine(path: str) -> dict[str, object]:
    """Return the read paths of the GGUF file at `path`; never crashes with it.

    Keys: architecture, layers, hidden, quantisation (None when it cannot be loaded); native:
    "allowed", "works, not in the allow-list" or "unsupported: reason"; callback: "works" or the
    reason; error: None or why the file cannot be used.
    """
    findings: dict[str, object] = dict.fromkeys(
        ("architecture", "layers", "hidden", "quantisation", "native", "callback", "error")
    )
    if not Path(path).is_file():
        return findings | {"error": f"there is no file {path}"}
    facts, crash = _child("callback", path)
    findings |= facts
    if crash:
        return findings | {"error": f"llama.cpp died on this file: {crash}"}
    if findings["error"] is None:
        findings["native"] = _native(path, str(findings["architecture"]))
    return findings


def open_door(path: str, facts: Mapping[str, object]) -> Residuals:
    """Return the door into an examined file, through a path that can read it."""
    backend = "callback" if facts["callback"] == "works" else "native"
    return Door(LlamaSpeaker.load(Path(path), None).model, backend)


def _native(path: str, architecture: str) -> str:
    if not ctypes_llama.has_layer_input():
        return f"unsupported: llama-cpp-python {llama_cpp.__version__} does not export it"
    facts, crash = _child("native", path)
    if crash:
        return f"unsupported: llama.cpp ended the process: {crash}"
    if facts.get("native") != "works":
        return f"unsupported: {facts.get('native') or facts.get('error')}"
    return "allowed" if support.native_allowed(architecture) else "works, not in the allow-list"


def _child(task: str, path: str) -> tuple[dict[str, object], str | None]:
    """Run one task below in a child; return its findings and how it died, if it did."""
    command = [sys.executable, "-c", f"import {__name__} as d; d.report()", task, path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {PATIENCE} s"
    if done.returncode < 0:
        return {}, signal.Signals(-done.returncode).name
    try:
        facts = json.loads(done.stdout.decode().rpartition("\n")[2])
        return cast("dict[str, object]", facts), None
    except ValueError:
        return {}, f"exit code {done.returncode}"


def report() -> None:
    """Do one task in this process and print its findings as JSON: the child's main function."""
    task, path = sys.argv[1:3]
    try:
        # llama.cpp's threads spin: on a busy machine all of them are slower than half of them.
        threads = max(1, (os.cpu_count() or 1) // 2)
        llm = llama_cpp.Llama(path, n_ctx=256, n_threads_batch=threads, verbose=False)
        facts = {"callback": _examine_callback, "native": _examine_native}[task](llm)
    except (EmoGuardError, ValueError, RuntimeError) as error:
        facts = {"error": str(error)}
    sys.stdout.write("\n" + json.dumps(facts))
    sys.stdout.flush()


def _examine_callback(llm: Any) -> dict[str, object]:
    identity = identify(llm)
    facts: dict[str, object] = {
        "architecture": identity.architecture,
        "layers": identity.layers,
        "hidden": identity.hidden,
        "quantisation": identity.quantisation,
        "callback": "works",
    }
    try:
        _residuals(llm, "callback", range(identity.layers - 1))
    except EmoGuardError as error:
        facts["callback"] = str(error)
    return facts


def _examine_native(llm: Any) -> dict[str, object]:
    layers = range(llama_cpp.llama_model_n_layer(llm.model) - 1)
    callback = _residuals(llm, "callback", layers)
    native = _residuals(llm, "native", layers)
    same = np.allclose(native, callback, rtol=1e-5, atol=1e-5 * float(np.abs(callback).max()))
    return {"native": "works" if same else "it gives other numbers than the callback"}


def _residuals(llm: Any, path: support.Path, layers: range) -> Any:
    door = Door(llm, "callback")
    door.path = path
    return door.residuals(TOKENS, layers)
