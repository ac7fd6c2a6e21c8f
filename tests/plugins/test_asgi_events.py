"""Server-sent events: cut anywhere, read as the standard reads them, added to in one place."""

import json
import time

import pytest
from emoguard_asgi import events
from hypothesis import given
from hypothesis import strategies as st

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.sampled_from(
    [
        b"data: [DONE]",
        b"data:",
        b"data",
        b'data: {"a": "x }"}',
        b'data:{"a": 1}',
        b": ping",
        b"id: 7}",
        "data: ✓".encode(),
        b"retry: 10",
    ]
)


@st.composite
def streams(draw):
    """Return the lines of some events, and their bytes with line ends of any kind, mixed."""
    result = draw(st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=4))
    raw = b""
    for lines in result:
        for line in lines:
            raw += line + draw(ENDS)
        # A lone CR before a LF would be one end of line: the blank line ends as the line did.
        raw += b"\r" if raw.endswith(b"\r") else b"\r\n" if raw.endswith(b"\r\n") else b"\n"
    return result, raw


@given(streams(), st.data())
def test_every_byte_comes_out_once_and_in_order_wherever_the_stream_is_cut(stream, data):
    result, raw = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    cutter = events.Events()
    out = [event for piece in pieces for event in cutter.feed(piece)]
    assert b"".join(out) + cutter.rest() == raw
    assert cutter.rest() == b""
    wanted = [b"\n".join(_value(line) for line in lines if _is_data(line)) for lines in result]
    # A blank line cut in two may leave an end of line at the head of the next event: no data.
    assert [d for e in out if (d := events.data(e))] == [w for w in wanted if w]


def _is_data(line):
    return line.partition(b":")[0] == b"data"


def _value(line):
    return line.partition(b":")[2].removeprefix(b" ")


def test_an_event_is_out_with_the_byte_that_ends_it():
    cutter = events.Events()
    text = b"data: one\n\n"
    for cut in range(1, len(text)):
        cutter = events.Events()
        assert cutter.feed(text[:cut]) == []
        assert cutter.feed(text[cut:]) == [text]


def test_a_long_event_in_many_pieces_is_looked_through_once():
    cutter, before = events.Events(), time.process_time()
    for _ in range(40_000):
        assert cutter.feed(b"data: a\rb\n" * 2) == []
    assert time.process_time() - before < 5
    assert len(cutter.feed(b"\n")[0]) == cutter.held + 40_000 * 20 + 1


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"a": {"b": 1}}\n\n',
        b'data:{"a": {"b": 1}}\r\n\r\n',
        b'data: {"a":\ndata:  {"b": 1}\ndata: }\n\n',
        b'data: {"a": {"b": 1}}  \nid: }\n\n',
        b': }\ndata: {"a": {"b": 1}}\n\n',
        b'data: {"a": {"b": 1}}',
    ],
)
def test_a_member_is_put_last_and_no_other_byte_is_touched(event):
    longer = events.add_member(event, b'"emoguard":{"c":"}"}')
    assert json.loads(events.data(longer)) == {"a": {"b": 1}, "emoguard": {"c": "}"}}
    assert longer.replace(b',"emoguard":{"c":"}"}', b"") == event


def test_a_comment_has_no_data():
    assert events.data(b": ping - 2025\r\n\r\n") == b""
    assert events.data(b"\n") == b""
