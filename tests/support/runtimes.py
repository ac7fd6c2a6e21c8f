"""Which test modules load a runtime, found by their imports and those of their helpers."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNTIMES = frozenset(
    {"torch", "transformers", "llama_cpp", "vllm"}
    | {"emoguard_torch", "emoguard_transformers", "emoguard_llamacpp", "emoguard_vllm"}
)


def loads_runtime(path: Path) -> bool:
    """Return whether importing or running the test module at `path` loads a runtime."""
    return bool(_libraries(path.resolve()) & RUNTIMES)


@cache
def _libraries(path: Path) -> frozenset[str]:
    """Return the root packages that a file and the modules of `tests` it imports import."""
    results: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in _imported(node):
            root = name.partition(".")[0]
            results.add(root)
            helper = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if root == "tests" and helper.exists() and helper != path:
                results |= _libraries(helper)
    return frozenset(results)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    is_skip = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip")
    return [arg.value for arg in node.args if isinstance(arg, ast.Constant)] if is_skip else []
