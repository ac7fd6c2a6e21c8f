"""What holds for all tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import thread as executors
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.runtimes import loads_runtime

# Machines are shared and noisy: how long an example takes is no property of the code. Speed is
# measured in benchmarks/.
settings.register_profile("emoguard", deadline=None)
settings.register_profile("fast", settings.get_profile("emoguard"), max_examples=20)
settings.load_profile("emoguard")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="leave out what loads a runtime, and tests marked slow or real; draw fewer examples",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        settings.load_profile("fast")


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


@pytest.fixture(scope="module", autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a file of tests that leaves a thread behind: the process would wait for it for ever."""
    before = set(threading.enumerate())
    yield
    left = [each for each in threading.enumerate() if each not in before and not each.daemon]
    # An executor's threads are ended with the interpreter.
    left = [each for each in left if each not in executors._threads_queues]
    for each in left:
        each.join(10)
    names = [each.name for each in left if each.is_alive()]
    assert not names, f"these threads still run after the last test of the file: {names}"
