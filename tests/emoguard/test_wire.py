"""What a client may ask for over a server's wire, and what it is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Plan, Policy, Request
from emoguard.policy.policy import RequestPolicy
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import every_kind_of_report, make_report
from emoguard.wire import parse_request, response_object, user_text

ALL = Policy(requests=RequestPolicy(plan=True, scores=True, channel=True, conversation=True))
ASKED = {
    "plan": {"add": {"calm": 0.05}, "ablate": ["sad"]},
    "scores": "tokens",
    "channel": "suffix",
    "conversation": "c",
}
HEARD = {
    "plan": Plan(add={"calm": 0.05}, ablate=("sad",)),
    "scores": "tokens",
    "channel": "suffix",
    "conversation": "c",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_nothing_is_granted_by_default_and_requested_fields_are_named():
    assert parse_request(ASKED, Policy()) == ({}, ("plan", "scores", "channel", "conversation"))


def test_fields_that_the_policy_allows_are_granted():
    assert parse_request(ASKED, ALL) == (HEARD, ())
    assert parse_request({}, ALL) == ({}, ())
    assert Request(**HEARD, denied=()).plan == HEARD["plan"]


@pytest.mark.parametrize("part", ASKED)
def test_each_part_is_allowed_for_itself(part):
    policy = Policy(requests=RequestPolicy(**{part: True}))
    heard, denied = parse_request(ASKED, policy)
    assert heard == {part: HEARD[part]}
    assert denied == tuple(name for name in ASKED if name != part)


def test_null_asks_for_nothing():
    for policy in (ALL, Policy()):
        assert (
            parse_request(None, policy) == parse_request(dict.fromkeys(ASKED), policy) == ({}, ())
        )
    assert parse_request({"plan": None, "scores": "summary"}, ALL) == ({"scores": "summary"}, ())


@pytest.mark.parametrize("fields", [None, {}, {"conversation": None}])
def test_the_conversation_of_a_header_stands_in_for_one_in_the_object(fields):
    assert parse_request(fields, ALL, "h") == ({"conversation": "h"}, ())
    assert parse_request({"conversation": "c"}, ALL, "h") == ({"conversation": "c"}, ())
    assert parse_request(fields, Policy(), "h") == ({}, ("conversation",))
    with pytest.raises(EmoGuardError, match="conversation: wanted a name of 1 to 256 characters"):
        parse_request(fields, ALL, "h" * 257)


@given(st.fixed_dictionaries(dict.fromkeys(ASKED, JSON.filter(lambda part: part is not None))))
def test_denied_fields_are_not_even_parsed(fields):
    assert parse_request(fields, Policy()) == ({}, tuple(ASKED))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([], "emoguard: wanted an object, got list"),
        ("plan", "emoguard: wanted an object, got str"),
        (False, "emoguard: wanted an object, got bool"),
        (0, "emoguard: wanted an object, got int"),
        ("", "emoguard: wanted an object, got str"),
        ({"conversation": "a\nb"}, "conversation: wanted a name without control characters"),
        ({"plans": {}}, "emoguard: plans: unknown; did you mean plan?"),
        ({"plan": {"ad": {}}}, "emoguard: plan.ad: unknown; did you mean add?"),
        ({"plan": 3}, "emoguard: plan: wanted a mapping, got 3"),
        ({"plan": {"add": {"calm": 0.2}}}, "the plan's doses come to 0.2, the policy allows"),
        ({"plan": {"add": {"calm": "much"}}}, 'emoguard: plan.add.calm: wanted a number, got "m'),
        ({"scores": "all"}, "emoguard: scores: wanted 'summary' or 'tokens', got \"all\""),
        ({"channel": "header"}, "emoguard: channel: wanted 'field' or 'suffix', got"),
        ({"conversation": ""}, "conversation: wanted a name of 1 to 256 characters, got 0"),
        ({"conversation": "c" * 257}, "conversation: wanted .* got 257"),
        ({"conversation": 7}, "emoguard: conversation: wanted text, got 7"),
        ({1: 2}, "emoguard: 1: not a key"),
    ],
)
def test_an_invalid_field_is_named(fields, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        parse_request(fields, ALL)


@given(JSON)
def test_anything_is_heard_or_refused_in_a_sentence(fields):
    try:
        heard, denied = parse_request(fields, ALL)
    except EmoGuardError as error:
        assert 10 < len(str(error)) < 1000  # noqa: PT017
    else:
        assert heard.keys() <= ASKED.keys()
        assert denied == ()


def test_a_plan_beyond_the_bound_is_clipped_where_the_policy_clips():
    policy = Policy(requests=RequestPolicy(plan=True), steering=SteeringPolicy(on_excess="clip"))
    heard, _ = parse_request({"plan": {"add": {"calm": 0.2}}}, policy)
    assert heard == {"plan": Plan(add={"calm": 0.2})}


def test_a_response_of_several_reports_says_the_most_that_one_of_them_says():
    plain, words = make_report(), every_kind_of_report()[-2]
    field = every_kind_of_report()[-1]
    assert words.notice.text
    assert not field.notice.text
    assert response_object([]) is None
    assert response_object([plain]) == plain.wire()
    assert response_object([words, plain], "tokens") == plain.wire("tokens") | {
        "notice": words.notice.wire()
    }
    assert response_object([words, field])["notice"] == words.notice.wire()
    assert response_object([plain, field])["notice"] == field.notice.wire()


@pytest.mark.parametrize("report", every_kind_of_report(), ids=lambda r: r.status)
@pytest.mark.parametrize("scores", ["none", "summary", "tokens"])
def test_the_object_is_json_and_tells_nothing_of_the_model_or_the_probe(report, scores):
    wire = response_object([report], scores)
    text = json.dumps(wire, allow_nan=False)
    assert json.loads(text) == wire
    for secret in (report.identity, report.probe, report.model, "receipt", "detail", "faults"):
        assert secret not in {*wire, *map(str, wire.values())}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "b"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], "a"),
        ([{"role": "user", "content": [{"text": "a"}, {"text": "b"}, {"text": 3}, 4]}], "a\nb"),
        ([{"role": "system", "content": "a"}], None),
        ([{"role": "user"}], None),
        ([{"role": "user", "content": []}], None),
        (["user"], None),
        ([], None),
        (None, None),
        ("user", None),
    ],
)
def test_the_last_word_of_the_user_is_found_or_there_is_none(messages, text):
    assert user_text(messages) == text
