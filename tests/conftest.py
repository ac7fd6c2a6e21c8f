"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.runtimes import loads_runtime

# Machines are shared and noisy: how long an example takes is no property of the code. Speed is
# measured in benchmarks/.
settings.register_profile("emoguard", deadline=None)
settings.load_profile("emoguard")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="leave out what loads a runtime, and tests marked slow or real",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--fast") or collection_path.suffix != ".py":
        return None
    return True if loads_runtime(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if any(map(item.get_closest_marker, ("slow", "real", "long")))]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]
