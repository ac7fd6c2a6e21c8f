import copy
import dataclasses
import json
import pickle
import uuid
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import TypeAdapter

from emoguard import EmoGuardError, Plan, Report, Request
from emoguard.records import STATUSES
from emoguard.testing import every_kind_of_report, make_reading, make_report

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"
REPORTS = every_kind_of_report()


def generated():
    schema = TypeAdapter(Report).json_schema(mode="serialization")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Made from emoguard/records.py: python -m tests.emoguard.test_records",
    }
    return json.dumps(head | schema, indent=2) + "\n"


def test_committed_schema_is_the_one_of_the_records():
    assert SCHEMA.read_text(encoding="utf-8") == generated(), (
        "docs/report.schema.json is old: run python -m tests.emoguard.test_records"
    )


def test_every_field_of_the_schema_is_described():
    schema = json.loads(generated())
    for record in (schema, *schema["$defs"].values()):
        assert record["description"]
        for name, field in record["properties"].items():
            assert field.get("description"), name


def test_kinds_of_reports_cover_every_status():
    assert {report.status for report in REPORTS} == set(STATUSES)


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: f"{r.status}-{len(r.tokens)}")
def test_reports_are_valid_and_survive_json(report):
    plain = report.as_dict()
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(plain)
    assert plain.keys() == schema["properties"].keys()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_a_reading_without_one_row_per_token_is_no_reading():
    with pytest.raises(ValueError, match="one row, id and phase per token"):
        make_reading(tokens=4, token_ids=np.arange(5))


def test_the_responses_of_one_call_have_one_name_for_it():
    request = Request(id="a")
    numbered = [dataclasses.replace(request, id=f"a-{n}") for n in range(2)]
    assert [each.call for each in (request, *numbered)] == ["a"] * 3
    assert make_report(numbered[1]).call == "a"
    assert make_report().call != make_report().call


@pytest.mark.parametrize("value", [17, np.int64(17), "17", np.str_("17")])
def test_names_from_databases_become_text(value):
    request = Request(id=value, conversation=value)
    assert (request.id, request.call, request.conversation) == ("17", "17", "17")
    assert {type(request.id), type(request.call), type(request.conversation)} == {str}


def test_a_uuid_is_a_name_and_no_name_makes_one_up():
    own = uuid.uuid4()
    assert Request(id=own, conversation=own).conversation == Request(id=own).call == str(own)
    results = [Request(id=None), Request(id=None), Request(), Request()]
    assert len({request.id for request in results}) == 4
    assert all(request.id == request.call for request in results)


@pytest.mark.parametrize("field", ["id", "conversation", "call"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (True, "wanted text, an integer or a UUID, got true"),
        (1.5, "wanted text, an integer or a UUID, got 1.5"),
        (b"a", "wanted text, an integer or a UUID, got bytes"),
        (["a"], "got a list"),
        (10**5000, "got an endless int"),
        ("a" * 1_000_000, "wanted a name of 1 to 1,0.. characters, got 1,000,000"),
        ("a\0b", "without control characters"),
        ("a\nb", r'without control characters, got "a\\nb"'),
        ("a\u2028b", "without control characters"),
        ("\x9b31m", "without control characters"),
        ("\ud800", "without control characters"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_name_that_logs_and_answers_cannot_hold_is_refused(field, value, sentence):
    with pytest.raises(EmoGuardError, match=f"Request.{field}: .*{sentence}"):
        Request(**{field: value})


def test_an_empty_name_is_refused_where_all_requests_would_share_it():
    for field in ("id", "conversation"):
        with pytest.raises(EmoGuardError, match=f"{field}: wanted a name of 1 to 1,000 characters"):
            Request(**{field: ""})


def test_the_longest_name_can_still_be_numbered():
    request = Request(id="a" * 1000, conversation="Gespräch\u00a0№ 7 🙂")
    numbered = dataclasses.replace(request, id=f"{request.id}-{10**9}")
    assert numbered.call == request.id


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scores": "token"}, "scores: wanted 'summary', 'tokens' or 'text', got .* mean tokens"),
        ({"scores": None}, "Request.scores: wanted"),
        ({"channel": "Suffix"}, "Request.channel: .* did you mean suffix"),
        ({"channel": "header"}, "Request.channel: wanted 'field' or 'suffix'"),
        ({"carrier": "Server"}, "Request.carrier: .* did you mean server"),
        ({"carrier": None}, "Request.carrier: wanted 'process' or 'server', got null"),
        ({"user_text": ["hi"]}, "Request.user_text: wanted text, got a list"),
        ({"user_text": b"hi"}, "Request.user_text: wanted text, got bytes"),
        ({"denied": "plan"}, 'Request.denied: wanted a list, got "plan"'),
        ({"denied": (1,)}, r"Request.denied\.0: wanted text, got 1"),
        ({"plan": "calm"}, 'Request.plan: wanted a mapping, got "calm"'),
        ({"plan": {"ad": {}}}, "Request.plan.ad: unknown; did you mean add"),
        ({"plan": {"add": {"sad": "much"}}}, "Request.plan.add.sad: wanted a number"),
    ],
)
def test_every_field_of_a_request_is_checked_where_it_is_made(fields, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        Request(**fields)


def test_a_request_takes_a_plan_as_a_mapping_and_any_text_of_its_user():
    request = Request(plan={"add": {"calm": 0.05}}, user_text="\ud800\0", denied=["plan"])
    assert request.plan == Plan(add={"calm": 0.05})
    assert (request.user_text, request.denied) == ("\ud800\0", ("plan",))
    for same in (copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
        assert same == request


if __name__ == "__main__":
    SCHEMA.write_text(generated(), encoding="utf-8")
