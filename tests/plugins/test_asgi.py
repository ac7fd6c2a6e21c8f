"""The middleware around an app that sends what the test wrote: what changes, and what does not."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import Plan, Policy, Request
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import RequestPolicy
from emoguard.runtime.session import REQUEST
from emoguard.steering.policy import SteeringPolicy
from tests.support.wire import (
    CHAT,
    COMPLETION,
    NOTICED,
    PLAIN,
    STREAM,
    body,
    call,
    chunk,
    event,
    objects,
    start,
    stream,
    whole,
    wrapped,
)

OPEN = replace(
    NOTICED, requests=RequestPolicy(plan=True, scores=True, channel=True, conversation=True)
)
RAW = b"".join(STREAM)
HELLO = {"role": "user", "content": "Hello"}


def asking(**parts):
    return {"messages": [HELLO], "emoguard": parts}


def without_object(raw):
    """Return an answer's bytes less the object that was put into it."""
    place = raw.index(b',"emoguard":')
    _, end = json.JSONDecoder().raw_decode(raw[place + 12 :].decode())
    return raw[:place] + raw[place + 12 :].decode()[end:].encode()


class TestWithoutNotices:
    """A policy that follows no profile, and a request that asks for nothing."""

    @pytest.mark.parametrize("messages", [stream(*STREAM), whole()], ids=["stream", "body"])
    def test_every_byte_is_the_apps(self, messages):
        app, _, _ = wrapped(messages, Policy())
        assert call(app).sent == messages

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions/x", "/"])
    def test_other_routes_pass_with_the_body_unread(self, path):
        sent = json.dumps(asking(plan={})).encode()
        app, _, inner = wrapped(whole(), Policy())
        assert call(app, sent, path=path).sent == whole()
        assert inner.bodies == [sent]
        assert REQUEST.get() is None

    def test_a_watch_that_was_disabled_changes_nothing(self):
        app, watch, inner = wrapped(whole())
        watch.enabled = False
        inner.watch = None
        assert call(app, asking(plan="nonsense")).sent == whole()


class TestNotice:
    @pytest.mark.parametrize("path", [CHAT, PLAIN, "/v1/engines/copilot-codex/completions"])
    def test_a_body_has_the_object_and_nothing_else_is_new(self, path):
        app, watch, _ = wrapped(whole())
        answer = call(app, path=path)
        assert answer.json["emoguard"] == watch.reports[-1].wire()
        assert answer.json["emoguard"]["notice"]["reasons"] == ["start"]
        assert without_object(answer.body) == COMPLETION
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.headers["x-emoguard-notice"] == "ai;v=1"

    def test_a_stream_has_the_object_on_the_chunk_that_ends_a_choice(self):
        app, watch, _ = wrapped(stream(*STREAM))
        answer = call(app)
        assert objects(answer) == [None, None, watch.reports[-1].wire()]
        assert without_object(answer.body) == b"".join(STREAM)
        assert answer.headers == {
            "date": "today",
            "content-type": "text/event-stream",
            "x-emoguard-notice": "ai;v=1",
        }

    def test_no_chunk_waits_for_another(self):
        app, _, _ = wrapped(stream(*STREAM))
        parts = call(app).parts
        assert [without_object(p) if b"emoguard" in p else p for p in parts] == [*STREAM, b""]

    @given(st.lists(st.integers(1, len(RAW) - 1), max_size=8))
    def test_a_stream_may_be_cut_anywhere(self, cuts):
        places = [0, *sorted(cuts), len(RAW)]
        pieces = [RAW[a:b] for a, b in itertools.pairwise(places)]
        messages = [start(), *(body(piece, more=True) for piece in pieces), body(b"")]
        app, watch, _ = wrapped(messages, early=True)
        answer = call(app)
        assert objects(answer) == [None, None, watch.reports[-1].wire()]
        assert without_object(answer.body) == RAW

    def test_data_in_several_lines_and_an_event_that_no_blank_line_ends(self):
        lines = chunk(finish="stop").replace(', "choices"', ',\ndata: "choices"')
        last = event(lines).rstrip(b"\n")
        app, watch, _ = wrapped([start(), body(event(chunk("Hi")), more=True), body(last)])
        answer = call(app)
        assert without_object(answer.body) == event(chunk("Hi")) + last
        assert json.dumps(watch.reports[-1].wire()).encode() in answer.body

    def test_reports_of_others_that_end_meanwhile_do_not_take_its_place(self):
        app, watch, _ = wrapped(stream(*STREAM), replace(NOTICED, keep_reports=1), early=True)
        generate = watch.generate

        def generate_among_others(text):
            generate(text)
            for _ in range(3):
                watch.generate_for(Request())

        watch.generate = generate_among_others
        own = objects(call(app))[-1]
        assert own["notice"]["kind"] == "ai"
        assert own["id"] == watch.requests[0].id != watch.reports[-1].id
        assert not watch.guard.outbox.waiting(own["id"])

    def test_each_choice_that_ends_has_it(self):
        first = json.loads(chunk(finish="stop"))
        second = json.loads(chunk(finish="length"))
        second["choices"][0]["index"] = 1
        app, watch, _ = wrapped(stream(event(json.dumps(first)), event(json.dumps(second))))
        actual = objects(call(app))
        assert actual == [report.wire() for report in watch.reports]
        assert len({report.id for report in watch.reports}) == 1

    @pytest.mark.parametrize(
        "text",
        ["[DONE]", "{", '"finish_reason"', '{"finish_reason": "stop"}', '["finish_reason"]'],
    )
    def test_other_events_than_chunks_pass(self, text):
        app, _, inner = wrapped(stream(event(text), *STREAM[-2:]))
        answer = call(app)
        assert without_object(answer.body) == event(text) + b"".join(STREAM[-2:])
        assert len(inner.bodies) == 1

    def test_errors_of_the_app_pass_with_the_header(self):
        error = json.dumps({"error": {"message": "no", "finish_reason": "x"}}).encode()
        app, _, _ = wrapped(whole(error, status=500))
        answer = call(app)
        assert (answer.status, answer.body) == (500, error)
        assert answer.headers["x-emoguard-notice"] == "ai;v=1"

    def test_other_routes_have_the_header(self):
        app, _, _ = wrapped(whole())
        answer = call(app, path="/v1/models", method="GET")
        assert answer.headers["x-emoguard-notice"] == "ai;v=1"
        assert answer.body == COMPLETION

    def test_the_header_names_the_kind_of_notice(self):
        steered = replace(NOTICED, steering=SteeringPolicy(plan=Plan(add={"happy": 0.05})))
        app, _, _ = wrapped(whole(), steered)
        answer = call(app)
        assert answer.headers["x-emoguard-notice"] == "steered;v=1"
        assert answer.json["emoguard"]["steered"] is True

    def test_a_steered_answer_has_the_object_without_any_profile(self):
        steered = Policy(steering=SteeringPolicy(plan=Plan(add={"happy": 0.05})))
        app, _, _ = wrapped(stream(*STREAM), steered)
        assert objects(call(app))[-1]["notice"]["kind"] == "steered"

    def test_an_answer_that_the_app_compressed_passes(self):
        packed = whole(b"\x1f\x8bpacked", (b"content-encoding", b"gzip"))
        app, watch, _ = wrapped(packed)
        answer = call(app)
        assert answer.body == b"\x1f\x8bpacked"
        assert not watch.guard.outbox.waiting()

    def test_the_app_is_not_asked_to_compress(self):
        app, _, inner = wrapped(whole())
        call(app, headers=[(b"accept-encoding", b"gzip, br"), (b"transfer-encoding", b"chunked")])
        names = [name for name, _ in inner.scopes[0]["headers"]]
        assert names == [b"host", b"content-length"]


class TestRequest:
    """What a request asks for: denied unless the policy lists it, and never seen by the app."""

    def test_nothing_is_granted_by_default(self):
        app, watch, inner = wrapped(whole())
        plan = {"add": {"happy": 0.05}}
        answer = call(app, asking(plan=plan, scores="tokens", channel="suffix", conversation="c"))
        assert json.loads(inner.bodies[0]) == {"messages": [HELLO]}
        (report,) = watch.reports
        assert report.denied == ("plan", "scores", "channel", "conversation")
        assert (report.steered, report.conversation, report.tokens) == (False, None, ())
        assert answer.json["emoguard"].keys() == {"version", "id", "status", "steered", "notice"}
        assert answer.json["choices"][0]["message"]["content"] == "Hello } ✓"

    def test_fields_that_the_policy_lists_are_granted(self):
        app, watch, _ = wrapped(whole(), OPEN)
        plan = {"add": {"happy": 0.05}}
        answer = call(app, asking(plan=plan, scores="tokens", conversation="c"))
        (report,) = watch.reports
        assert (report.steered, report.conversation, report.denied) == (True, "c", ())
        assert len(answer.json["emoguard"]["tokens"]) == 40
        assert answer.json["emoguard"]["scores"].keys() == {"happy", "sad"}

    def test_scores_come_without_a_notice_where_they_are_asked_for(self):
        app, watch, _ = wrapped(stream(*STREAM), replace(OPEN, notices=NoticePolicy()))
        answer = call(app, asking(scores="summary"))
        assert objects(answer)[-1] == watch.reports[-1].wire("summary")

    def test_a_header_names_the_conversation_where_the_object_does_not(self):
        app, watch, _ = wrapped(whole(), OPEN)
        named = [(b"x-emoguard-conversation", b"from the header")]
        call(app, headers=named)
        call(app, asking(conversation="from the object"), headers=named)
        results = [report.conversation for report in watch.reports]
        assert results == ["from the header", "from the object"]
        assert watch.reports[1].notice.reasons == ("start",)

    @pytest.mark.parametrize("sent", ["Größe ✓".encode(), "Größe".encode("latin-1"), b"\xff"])
    def test_a_header_may_be_in_utf_8_or_latin_1(self, sent):
        app, watch, _ = wrapped(whole(), OPEN)
        call(app, headers=[(b"x-emoguard-conversation", sent), (b"x-emoguard-conversation", b"b")])
        name = sent.decode() if "✓".encode() in sent else sent.decode("latin-1")
        assert watch.reports[-1].conversation == name

    def test_one_conversation_is_told_once(self):
        app, watch, _ = wrapped(whole(), OPEN)
        answers = [call(app, asking(conversation="c")) for _ in range(2)]
        assert "emoguard" in answers[0].json
        assert answers[1].sent == [start_with_header(whole()[0]), whole()[1]]
        assert [report.notice is None for report in watch.reports] == [False, True]

    def test_a_body_without_the_object_reaches_the_app_to_the_byte(self):
        sent = b'{ "messages" : [], "x": 1.50, "emoguarded": 1 }\n'
        app, _, inner = wrapped(whole())
        call(app, parts=[sent[:9], sent[9:20], b"", sent[20:]])
        assert inner.bodies == [sent]

    def test_half_a_surrogate_pair_in_the_text_of_vllms_clients_is_refused(self):
        app, _, inner = wrapped(whole())
        for text in ("\ud800", '{"conversation": "\ud800"}'):
            answer = call(app, {"messages": [HELLO], "vllm_xargs": {"emoguard": text}})
            assert (answer.status, answer.json["error"]["param"]) == (400, "emoguard")
        assert inner.bodies == []

    def test_a_key_that_is_written_twice_or_in_escapes_is_gone(self):
        sent = b'{"emoguard": {}, "a": 1, "emogu\\u0061rd": {"scores": "tokens"}}'
        app, watch, inner = wrapped(whole())
        call(app, sent)
        assert inner.bodies == [b'{"a": 1}']
        assert (b"content-length", b"8") in inner.scopes[0]["headers"]
        assert watch.reports[-1].denied == ("scores",)

    @pytest.mark.parametrize("sent", [b"", b"{", b"[1]", b'"emoguard"', b"\xff\xfe"])
    def test_a_body_that_is_not_an_object_is_left_to_the_app(self, sent):
        app, _, inner = wrapped(whole(b'{"error": {}}', status=400))
        assert call(app, sent).status == 400
        assert inner.bodies == [sent]

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ({"messages": [HELLO, {"role": "assistant", "content": "no"}]}, "Hello"),
            (
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {}},
                                {"type": "text", "text": "What"},
                                {"type": "text", "text": "is it?"},
                            ],
                        }
                    ]
                },
                "What\nis it?",
            ),
            ({"messages": [{"role": "user", "content": None}]}, None),
            ({"messages": []}, None),
            ({"messages": "x"}, None),
            ({"prompt": "Once"}, "Once"),
            ({"prompt": ["Once", "Twice"]}, "Twice"),
            ({"prompt": [1, 2]}, None),
            ({}, None),
        ],
    )
    def test_the_guard_gets_the_users_last_message(self, content, text):
        app, watch, _ = wrapped(whole())
        call(app, content)
        assert watch.requests[-1].user_text == text

    def test_a_user_who_asks_whether_this_is_a_human_gets_a_notice(self):
        policy = replace(OPEN, notices=NoticePolicy(profiles=("us_ut_452",)))
        app, watch, _ = wrapped(whole(), policy)
        for text in ("Hello", "Are you human?"):
            user = {"role": "user", "content": text}
            call(app, {"messages": [user], "emoguard": {"conversation": "c"}})
        assert watch.reports[1].notice.reasons == ("question",)


class TestSuffix:
    """The words in the text: only where the policy, or a request it trusts, says so."""

    POLICY = replace(NOTICED, notices=NoticePolicy(profiles=("eu_art50",), channel="suffix"))

    def test_a_stream_gets_one_chunk_more_before_the_one_that_ends_it(self):
        app, watch, _ = wrapped(stream(*STREAM), self.POLICY)
        parts = call(app).parts
        words = watch.reports[-1].notice.text
        extra, last = parts[3].split(b"\n\n")[:2]
        data = json.loads(extra.removeprefix(b"data: "))
        assert data == json.loads(chunk(f"\n\n{words}"))
        assert without_object(last) + b"\n\n" == STREAM[3]
        assert [*parts[:3], *parts[4:]] == [*STREAM[:3], STREAM[4], b""]

    def test_a_plain_stream_gets_text(self):
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
        last = json.dumps({"id": "cmpl-1", "choices": [choice], "usage": {"total_tokens": 3}})
        app, watch, _ = wrapped(stream(event(last, "\r\n")), self.POLICY)
        extra = call(app, {"prompt": "Hi"}, path=PLAIN).parts[0].split(b"\r\n\r\n")[0]
        text = {**choice, "text": f"\n\n{watch.reports[-1].notice.text}", "finish_reason": None}
        assert json.loads(extra.removeprefix(b"data: ")) == {"id": "cmpl-1", "choices": [text]}

    def test_a_body_has_the_words_behind_its_text(self):
        app, watch, _ = wrapped(whole(), self.POLICY)
        answer = call(app).json
        wanted = json.loads(COMPLETION)
        wanted["choices"][0]["message"]["content"] += f"\n\n{watch.reports[-1].notice.text}"
        assert answer == wanted | {"emoguard": watch.reports[-1].wire()}

    def test_a_request_may_choose_where_the_policy_lets_it(self):
        app, _, _ = wrapped(whole(), OPEN)
        assert (
            call(app, asking(channel="suffix")).json["choices"] != json.loads(COMPLETION)["choices"]
        )
        assert without_object(call(app, asking(channel="field")).body) == COMPLETION

    @pytest.mark.parametrize(
        "why",
        [
            {"response_format": {"type": "json_object"}},
            {"tools": [{"type": "function"}]},
            {"functions": [{"name": "f"}]},
            {"logprobs": True},
            {"logprobs": 3},
            {"grammar": "root ::= x"},
            {"suffix": "}"},
        ],
    )
    @pytest.mark.parametrize("messages", [stream(*STREAM), whole()], ids=["stream", "body"])
    def test_text_for_a_program_is_left_alone(self, why, messages):
        app, watch, _ = wrapped(messages, self.POLICY)
        answer = call(app, {"messages": [HELLO]} | why)
        assert without_object(answer.body) == b"".join(m.get("body", b"") for m in messages)
        assert watch.reports[-1].notice.text

    @pytest.mark.parametrize("reason", ["tool_calls", "function_call"])
    def test_a_tool_call_is_left_alone(self, reason):
        last = event(chunk(finish=reason))
        app, _, _ = wrapped(stream(last), self.POLICY)
        assert without_object(call(app).body) == last
        message = {"role": "assistant", "content": None, "tool_calls": []}
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        content = json.dumps({"choices": choices}).encode()
        app, _, _ = wrapped(whole(content), self.POLICY)
        assert without_object(call(app).body) == content


def start_with_header(message):
    return message | {"headers": [*message["headers"], (b"x-emoguard-notice", b"ai;v=1")]}
