"""Sinks opened from a policy, by entry point: real ones that are installed, and a made-up one."""

import sys
from importlib.metadata import entry_points
from typing import Annotated, Literal

import pytest
from pydantic import Field

from emoguard import EmoGuardError, Policy
from emoguard.sinks.open import check_sinks, checked_options, open_sinks, sink_points
from emoguard.site import Site
from emoguard.testing import ListSink, make_site


class Recorder(ListSink):
    """Remembers how it was opened, joined and closed."""

    events: list = []  # noqa: RUF012

    @classmethod
    def from_policy(
        cls,
        site: "Unknown",  # noqa: F821  (a name only a type checker knows)
        *,
        path: str,
        port: int = 1,
        share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        mode: Literal["a", "b"] = "a",
        names: tuple[str, ...] = (),
        limit: float | None = None,
    ) -> "Recorder":
        if port == 13:
            raise EmoGuardError("port 13 brings bad luck")
        cls.events.append(("open", site.identity.name, path, port, share, mode, names, limit))
        return cls()

    def join(self, sinks: list) -> None:
        self.events.append(("join", len(sinks)))

    def close(self) -> None:
        self.events.append(("close",))


class NotFromPolicy:
    pass


METADATA = """[emoguard.monitors]
recorder = tests.emoguard.test_sinks:Recorder
manual = tests.emoguard.test_sinks:NotFromPolicy
absent = nowhere_to_be_found:Sink
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """Install a distribution whose entry points name the classes above."""
    info = tmp_path / "recorder-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recorder\nVersion: 1\n")
    (info / "entry_points.txt").write_text(METADATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tests.emoguard.test_sinks", sys.modules[__name__])
    Recorder.events = []


def site(*sinks) -> Site:
    return make_site(Policy.parse({"sinks": list(sinks)}))


def test_installed_sinks_are_found():
    assert {"jsonl", "prometheus", "recorder"} <= sink_points().keys()
    assert {p.name for p in entry_points(group="emoguard.exporters")} <= sink_points().keys()


def test_sinks_are_opened_in_order_joined_and_closed_last_first():
    full = {"path": "p", "port": 2, "share": 1, "mode": "b", "names": ["x"], "limit": None}
    wanted = site({"recorder": {"path": "q"}}, {"recorder": full})
    with open_sinks(wanted) as sinks:
        assert [type(sink) for sink in sinks] == [Recorder, Recorder]
        assert Recorder.events == [
            ("open", "fake", "q", 1, 0.5, "a", (), None),
            ("open", "fake", "p", 2, 1.0, "b", ("x",), None),
            ("join", 2),
            ("join", 2),
        ]
    assert Recorder.events[4:] == [("close",), ("close",)]


def test_open_sinks_are_closed_when_a_later_one_is_refused():
    wanted = site({"recorder": {"path": "q"}}, {"recorder": {"path": "q", "port": 13}})
    with (
        pytest.raises(EmoGuardError, match=r"sinks.1.recorder: port 13 brings bad luck"),
        open_sinks(wanted),
    ):
        pass
    assert [event[0] for event in Recorder.events] == ["open", "close"]


@pytest.mark.parametrize(
    ("sink", "sentence"),
    [
        ({"recoder": {}}, r"sinks.0.recoder: unknown; did you mean recorder\?"),
        ({"zzz": {}}, r"sinks.0.zzz: unknown; known sinks: .*jsonl.*recorder"),
        ({"recorder": {}}, r"sinks.0.recorder.path: wanted, got nothing"),
        (
            {"recorder": {"path": "p", "prt": 1}},
            r"sinks.0.recorder.prt: unknown; did you mean port",
        ),
        (
            {"recorder": {"path": "p", "zzz": 1}},
            r"zzz: unknown; known options: path, port, share, mode",
        ),
        ({"recorder": {"path": "p", "port": "1"}}, r"port: wanted a whole number, got \"1\""),
        ({"recorder": {"path": "p", "port": True}}, r"port: wanted a whole number, got true"),
        ({"recorder": {"path": "p", "port": 1.5}}, r"port: wanted a whole number, got 1.5"),
        ({"recorder": {"path": "p", "share": 1.5}}, r"share: .*1"),
        ({"recorder": {"path": "p", "mode": "c"}}, r"mode: wanted 'a' or 'b', got \"c\""),
        ({"recorder": {"path": "p", "names": [1]}}, r"recorder.names.0: wanted text, got 1"),
        ({"recorder": {"path": None}}, r"path: wanted text, got null"),
        ({"manual": {}}, r"sinks.0.manual cannot be opened from a policy"),
        ({"absent": {}}, r"sinks.0.absent needs nowhere_to_be_found: pip install"),
    ],
)
def test_a_mistake_is_named_before_anything_is_opened(sink, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        check_sinks(site(sink).policy)
    with pytest.raises(EmoGuardError, match=sentence), open_sinks(site(sink)):
        pass
    assert Recorder.events == []


def test_options_that_are_left_out_keep_their_defaults():
    assert checked_options("k", Recorder.from_policy, {"path": "p"}) == {"path": "p"}
