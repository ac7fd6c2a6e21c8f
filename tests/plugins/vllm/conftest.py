"""Fixtures on one engine; without vLLM nothing here is collected."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import pytest

from tests.plugins.vllm import engines

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    engines.prepare()


def pytest_configure(config: pytest.Config) -> None:
    # numba, which looks for drafts in prompts.
    config.addinivalue_line("filterwarnings", "ignore::PendingDeprecationWarning")
    for module in ("vllm", "torch", "transformers", "multiprocessing"):
        config.addinivalue_line("filterwarnings", f"ignore:::{module}")


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    # vLLM's sockets to its other processes end with this one, which is after pytest looks.
    warnings.filterwarnings("ignore", "Unclosed", ResourceWarning)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        wanted = item.get_closest_marker("engines")
        if wanted is not None and engines.NAME not in wanted.args:
            item.add_marker(pytest.mark.skip(f"not of engine {engines.NAME}"))


@pytest.fixture(scope="session")
def llm() -> Any:
    return engines.start()


@pytest.fixture(scope="session")
def truth() -> Any:
    from tests.plugins.vllm.truth import Truth

    return Truth()
