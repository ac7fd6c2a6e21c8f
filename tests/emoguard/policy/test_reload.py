"""A policy file that changes under a guard: noticed in every way a file can change, never fatal."""

import dataclasses
import logging
import os
import signal
import threading
from pathlib import Path

import pytest

from emoguard import EmoGuardError, Guard, Policy, Request
from emoguard.policy.reload import FIXED, PolicyFile, check_change, open_policy
from emoguard.runtime.watch import Watch
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeJoint,
    FakeModel,
    FakeResiduals,
    make_calibration,
    make_probe,
)

PROBE = make_probe(FakeResiduals())
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
SKIP = "on_unsupported: skip\n"
REFUSE = "on_unsupported: refuse\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(SKIP)
    return file


def test_it_reads_the_file_once_while_nothing_changes(path):
    file = PolicyFile(path)
    first = file.policy
    assert first == Policy(on_unsupported="skip")
    assert file.refresh() is first
    assert (file.loads, file.failures, file.successful, file.error) == (1, 0, True, None)


def test_a_bad_file_is_refused_when_it_is_opened(path, tmp_path):
    path.write_text("on_unsuported: skip")
    with pytest.raises(EmoGuardError, match="did you mean on_unsupported"):
        PolicyFile(path)
    with pytest.raises(EmoGuardError, match="cannot be read"):
        PolicyFile(tmp_path / "none.yaml")


@pytest.mark.parametrize("place", [os.mkfifo, Path.mkdir, lambda p: p.symlink_to("/dev/zero")])
def test_a_device_in_the_place_of_the_file_neither_hangs_nor_replaces_it(path, place):
    file = PolicyFile(path)
    path.unlink()
    place(path)
    assert file.refresh().on_unsupported == "skip"
    assert "wanted a regular file" in file.error


def edit_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    """As editors do; size and time may even be those of the old file."""
    stat = path.stat()
    new = path.with_suffix(".new")
    new.write_text(text.ljust(stat.st_size))
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(path)


@pytest.mark.parametrize("change", [edit_in_place, rename_over])
def test_a_change_is_noticed(path, change):
    file = PolicyFile(path)
    change(path, REFUSE)
    assert file.refresh().on_unsupported == "refuse"
    assert file.loads == 2


def test_an_edit_of_the_same_size_is_noticed_by_its_time(path):
    path.write_text("sample_ratio: 0.5\n")
    file = PolicyFile(path)
    before = path.stat().st_mtime_ns
    path.write_text("sample_ratio: 0.7\n")
    os.utime(path, ns=(before, before + 1))
    assert file.refresh().sample_ratio == 0.7


def test_a_link_swapped_as_kubernetes_does_is_followed(tmp_path):
    """policy.yaml -> ..data/policy.yaml, ..data -> a folder that is replaced as a whole."""

    def publish(version: str, text: str) -> None:
        folder = tmp_path / version
        folder.mkdir()
        (folder / "policy.yaml").write_text(text)
        os.utime(folder / "policy.yaml", ns=(1, 1))  # also when time and size are the same
        link = tmp_path / "..data_tmp"
        link.symlink_to(version)
        link.replace(tmp_path / "..data")

    publish("one", "sample_ratio: 0.5\n")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    file = PolicyFile(tmp_path / "policy.yaml")
    publish("two", "sample_ratio: 0.7\n")
    assert file.refresh().sample_ratio == 0.7
    (tmp_path / "one" / "policy.yaml").unlink()
    publish("three", "sample_ratio: 0.9\n")
    assert file.refresh().sample_ratio == 0.9


def break_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


BREAKS = {
    "unknown key": lambda path: path.write_text("smaple_ratio: 1"),
    "no yaml": lambda path: path.write_bytes(b"\xff{"),
    "gone": Path.unlink,
    "a link to itself": break_link,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "half written": lambda path: path.write_text("steering: {max_dose"),
    "fixed key": lambda path: path.write_text("labels: [sad]"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_last_good_policy_stays_and_the_failure_is_counted_once(path, name, caplog):
    file = PolicyFile(path)
    good = file.policy
    BREAKS[name](path)
    with caplog.at_level(logging.ERROR, "emoguard"):
        assert [file.refresh() for _ in range(3)] == [good] * 3
    assert (file.loads, file.failures, file.successful) == (1, 1, False)
    assert len(caplog.records) == 1
    assert str(file.error) in caplog.text


@pytest.mark.parametrize("name", ["unknown key", "gone", "fixed key"])
def test_it_recovers_when_the_file_does(path, name):
    file = PolicyFile(path)
    BREAKS[name](path)
    file.refresh()
    path.write_text(REFUSE)
    assert file.refresh().on_unsupported == "refuse"
    assert (file.loads, file.failures, file.successful, file.error) == (2, 1, True, None)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("labels: [happy]", "labels"),
        ("alarms: {window_tokens: 8}", "alarms.window_tokens"),
        ("alarms: {rate_per_1000_tokens: 2}", "alarms.rate_per_1000_tokens"),
        ("alarms: {hysteresis_sd: 1}", "alarms.hysteresis_sd"),
        ("drift: {baseline: b.json}", "drift"),
        ("sinks: [{rate: {}}]", "sinks"),
        ("keep_reports: 1", "keep_reports"),
    ],
)
def test_keys_that_a_watch_is_built_on_cannot_change(path, text, key):
    assert key in FIXED
    path.write_text("")
    file = PolicyFile(path)
    path.write_text(text)
    assert file.refresh() == Policy()
    assert file.error.startswith(f"{path}: {key} cannot change under a watch")
    assert file.error.endswith("detach and attach again, or restart")


class StopError(Exception):
    """Raised from a signal's handler."""


def test_an_interrupt_passes_and_the_file_is_read_with_the_next_response(path):
    def stop(*_):
        raise StopError("too late")

    path.write_text("")
    file = PolicyFile(path)
    path.write_text("on_unsupported: skip")
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(StopError):
            file.refresh(lambda _: signal.raise_signal(signal.SIGALRM))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (file.successful, file.failures) == (True, 0)
    assert file.refresh().on_unsupported == "skip"


def test_every_key_can_change_or_is_named_as_fixed():
    free = {"alarms.on_alert", "steering", "requests", "on_unsupported", "sample_ratio", "version"}
    free |= {"page"}
    names = ("known_minors", "every_hours", "continuing_gap_minutes", "utc_offset_hours")
    names += ("amplifying", "prompted", "channel", "locale", "text")
    free |= {f"notices.{name}" for name in names}
    keys = {field.name for field in dataclasses.fields(Policy)} - {"alarms", "notices"}
    keys |= {f"alarms.{field.name}" for field in dataclasses.fields(Policy().alarms)}
    keys |= {f"notices.{field.name}" for field in dataclasses.fields(Policy().notices)}
    assert keys == free | set(FIXED)
    check_change(
        Policy(),
        Policy.parse(
            {
                "alarms": {"on_alert": "stop"},
                "steering": {"max_dose_ratio": 0.2},
                "requests": {"plan": True},
                "notices": {"channel": "suffix"},
                "on_unsupported": "skip",
                "sample_ratio": 0.5,
            }
        ),
    )


def test_a_change_while_reading_is_read_again(path):
    file = PolicyFile(path)

    def change_again(policy: Policy) -> None:
        if policy.on_unsupported == "refuse":
            path.write_text("sample_ratio: 0.5\n")

    path.write_text(REFUSE)
    file.refresh(change_again)
    assert file.refresh(change_again).sample_ratio == 0.5


def test_no_error_of_the_check_gets_out(path):
    file = PolicyFile(path)
    path.write_text(REFUSE)

    def broken(policy: Policy) -> None:
        raise RuntimeError("broken")

    assert file.refresh(broken).on_unsupported == "skip"
    assert file.error == f"{path}: broken"


def test_threads_see_whole_policies_and_read_once_per_change(path):
    file = PolicyFile(path)
    seen, start = set(), threading.Barrier(5)

    def look() -> None:
        start.wait()
        for _ in range(200):
            policy = file.refresh()
            seen.add((policy.on_unsupported, policy.sample_ratio))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    rename_over(path, "{sample_ratio: 0.5}")
    for thread in threads:
        thread.join()
    assert file.refresh().sample_ratio == 0.5
    assert seen <= {("skip", 1.0), ("refuse", 0.5)}
    assert (file.loads, file.failures) == (2, 0)


# A guard that follows a file.


def guard_on(path: Path) -> Guard:
    return Guard(PROBE, [CALIBRATION], PolicyFile(path))


def test_a_guard_takes_a_new_policy_where_a_response_ends(path):
    guard = guard_on(path)
    watch = Watch(guard, FakeJoint(FakeModel()))
    session = watch.sessions.open(Request())
    path.write_text("sample_ratio: 0.5")
    assert guard.policy.sample_ratio == 1
    watch.sessions.close(session, "stop")
    assert guard.policy.sample_ratio == 0.5


def test_a_guard_takes_a_new_policy_where_a_response_begins(path):
    guard = guard_on(path)
    watch = Watch(guard, FakeJoint(FakeModel()))
    assert watch.sessions.open(Request()).steering is None
    path.write_text("steering: {max_dose_ratio: 0.3, plan: {cap: {sad: 0.9}}}")
    steering = watch.sessions.open(Request()).steering
    assert (steering.plan.cap, steering.bound) == ({"sad": 0.9}, 0.3)
    path.write_text("")
    assert watch.sessions.open(Request()).steering is None


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [("{cap: {glad: 0.9}}", "unknown label glad"), ("{add: {sad: 0.01}, layers: [5]}", "layers")],
)
def test_a_plan_that_the_probe_cannot_serve_is_refused_at_reload(path, plan, sentence):
    guard = guard_on(path)
    path.write_text(f"steering: {{plan: {plan}}}")
    guard.refresh()
    assert sentence in guard.policy_file.error


def test_a_plan_without_a_calibration_is_refused_at_reload(path):
    guard = Guard(PROBE, policy=PolicyFile(path))
    path.write_text("steering: {plan: {cap: {sad: 0.9}}}")
    guard.refresh()
    assert "calibration" in guard.policy_file.error
    assert guard.policy.steering.plan.is_empty


def test_an_amplifying_label_that_is_not_monitored_is_refused_at_reload(path):
    judged = dataclasses.replace(PROBE, card={"verdicts": {"happy": "usable", "sad": "weak"}})
    guard = Guard(judged, [CALIBRATION], PolicyFile(path))
    path.write_text("notices: {amplifying: [sad]}")
    guard.refresh()
    assert "the verdict on sad is weak: it is not monitored here" in guard.policy_file.error
    assert guard.policy.notices.amplifying == ()


def test_a_guard_without_a_file_keeps_its_policy():
    guard = Guard(PROBE, policy=Policy(sample_ratio=0.5))
    guard.refresh()
    assert guard.policy_file is None
    assert guard.policy == Policy(sample_ratio=0.5)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_followed_wherever_a_policy_is_taken(path, kind):
    guard = Guard(PROBE, [CALIBRATION], kind(path))
    assert guard.policy == guard.policy_file.policy == Policy(on_unsupported="skip")
    path.write_text(REFUSE)
    guard.refresh()
    assert guard.policy == Policy()


def test_a_policy_a_mapping_and_nothing_are_policies(path):
    file, policy = PolicyFile(path), Policy(sample_ratio=0.5)
    assert open_policy(file) is file
    assert open_policy(policy).policy is policy
    assert open_policy({"sample_ratio": 0.5}).policy == policy
    assert open_policy(None).policy == open_policy({}).policy == Policy()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (3, "policy: wanted a Policy, a mapping or the path of a YAML file, got 3"),
        (True, "got true"),
        (["labels"], "got a list"),
        (b"policy.yaml", "got bytes"),
        (Policy, "got type"),
        ({"label": ["sad"]}, "policy: label: unknown; did you mean labels"),
        ("nowhere.yaml", "nowhere.yaml cannot be read"),
        ("labels: [sad]", "cannot be read"),
        ("", "cannot be read"),
        ("a\0b", "cannot be read"),
    ],
    ids=str,
)
def test_an_unreadable_policy_is_never_the_default_one(source, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        Guard(PROBE, [CALIBRATION], source)
    with pytest.raises(EmoGuardError, match="wanted the path of a YAML file, got a mapping"):
        PolicyFile({"labels": ["sad"]})
