import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import TypeAdapter

from emoguard import Report, Request
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


def test_requests_have_distinct_ids_and_known_detail():
    assert Request().id != Request().id
    with pytest.raises(ValueError, match="'summary' or 'tokens'"):
        Request(scores="token")


if __name__ == "__main__":
    SCHEMA.write_text(generated(), encoding="utf-8")
