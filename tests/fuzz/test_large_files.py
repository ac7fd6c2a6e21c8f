"""Large hostile files: refused or taken within 5 s of CPU and 512 MiB each, this process included.

The quick profile takes files of 1 MiB, and the long one all patterns in files of 64 MiB.
"""

import pytest

from tests.fuzz import limits
from tests.fuzz.mutations import LARGE, write_large
from tests.fuzz.parsers import READERS

pytestmark = pytest.mark.slow

QUICK = 5


def pytest_generate_tests(metafunc):
    """Take few patterns and small files unless the profile is the long one."""
    is_long = metafunc.config.getoption("--hypothesis-profile") == "long"
    if "size" in metafunc.fixturenames:
        metafunc.parametrize("size", [2**26 if is_long else 2**20])
    if "pattern" in metafunc.fixturenames:
        metafunc.parametrize("pattern", list(LARGE) if is_long else list(LARGE)[:QUICK])


def test_a_large_file_is_refused_fast_and_small_by_every_parser(
    pattern, size, tmp_path, monkeypatch
):
    monkeypatch.setenv("K", "0f" * 32)
    path = tmp_path / "file"
    costs = {}
    for parser in READERS:
        write_large(path, LARGE[pattern], size)
        costs[parser.name] = limits.check_in_child(lambda parser=parser: parser.read(path))
        # A state that cannot be used is set aside, by one reader out of sight; all else stays.
        aside = path.with_name("file.aside-1")
        kept = next((each for each in (aside, path) if each.exists()), None)
        assert kept is None or size - 2**12 <= kept.stat().st_size <= size
        aside.unlink(missing_ok=True)
    show(pattern, costs)


@pytest.mark.parametrize("parser", READERS, ids=lambda parser: parser.name)
def test_a_large_file_of_its_own_kind_is_taken_or_refused_fast_and_small(parser, size, tmp_path):
    path = tmp_path / "file"
    for pattern in parser.large():
        write_large(path, pattern, size)
        show(pattern[1][:30], {parser.name: limits.check_in_child(lambda: parser.read(path))})


def show(pattern, costs):
    """Print the slowest and the largest, for a run with -s."""
    for measure, unit in (("seconds", 1), ("bytes", 2**20)):
        name, cost = max(costs.items(), key=lambda item: item[1][measure])
        print(f"{pattern}: {name} {cost[measure] / unit:.1f} {measure[0]}", end="; ")  # noqa: T201
