import json

import pytest
from emoguard_page.completion import LARGEST, Completion

from tests.support.wire import STREAM, body, chunk, event, start, stream, whole


def taken(*messages):
    completion = Completion()
    for message in messages:
        completion.take(message)
    return completion


def test_a_stream_gives_its_text_and_how_it_ended():
    completion = taken(*stream(*STREAM))
    assert (completion.text, completion.finish, completion.error) == ("Hello ✓", "stop", None)


def test_a_whole_body_gives_the_same():
    completion = taken(*whole())
    assert (completion.text, completion.finish) == ("Hello } ✓", "stop")


def test_text_is_taken_once():
    completion = taken(start(), body(event(chunk("Hel")), more=True))
    assert completion.take_text() == ("Hel", "")
    assert completion.take_text() == ("", "")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_that_a_server_sends_apart_stays_apart(key):
    piece = json.dumps({"choices": [{"index": 0, "delta": {key: "hm"}, "finish_reason": None}]})
    completion = taken(start(), body(event(piece), more=True), body(event(chunk("Hi")), more=True))
    assert completion.take_text() == ("Hi", "hm")


def test_the_notice_is_that_of_the_wire():
    last = chunk(finish="stop", emoguard={"notice": {"text": "An AI system."}})
    assert taken(*stream(event(last))).notice == {"text": "An AI system."}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"error": {"message": "the key is wrong"}}', "the key is wrong"),
        (b'{"error": "busy"}', "busy"),
        (b'{"detail": "no such route"}', "status 404"),
        (b"<html>", "status 404"),
        (b"[" * 100_000, "status 404"),
        (b"", "status 404"),
    ],
)
def test_an_error_is_said_in_the_servers_words_or_by_its_status(content, words):
    error = taken(start("application/json", status=404), body(content)).error
    assert words in error


@pytest.mark.parametrize(
    "odd",
    [
        '{"choices": 7}',
        '{"choices": [7, {"delta": 7}, {"delta": {"content": 7}}]}',
        '{"choices": [{"delta": null, "message": null}]}',
        '{"emoguard": {"notice": 7}, "choices": []}',
        "[]",
        "null",
        "NaN",
    ],
)
def test_other_bodies_than_completions_give_no_text(odd):
    completion = taken(*stream(event(odd), event(chunk("Hi"))))
    assert (completion.text, completion.notice, completion.error) == ("Hi", None, None)


def test_of_an_endless_answer_a_bound_is_held_and_the_page_says_so():
    completion = taken(start())
    piece = event(chunk("x" * 2**20))
    for _ in range(10):
        completion.take(body(piece, more=True))
    assert len(completion.text) <= LARGEST
    assert "more than 4,194,304 bytes" in completion.error
