import dataclasses
import json

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.records import LabelScore, Receipt
from emoguard.sinks import baseline as baseline_module
from emoguard.sinks.baseline import Baseline, counts
from emoguard.testing import every_kind_of_report, make_report

USUAL = make_report()
RECEIPT = Receipt({}, None, (1,), 0.1, 0.05, 0.05, 40, 0, 0)


def traffic(count, seed=0, **changes):
    rows = np.random.default_rng(seed).normal(size=(count, 2)).tolist()
    return [
        dataclasses.replace(
            USUAL,
            scores={
                "happy": LabelScore(happy, 9.0, 0.5, crossings=n % 2),
                "sad": LabelScore(sad, None, 0.5),
            },
            **changes,
        )
        for n, (happy, sad) in enumerate(rows)
    ]


BASELINE = Baseline.learn(traffic(2500), 50)


def test_blocks_are_means_of_responses_in_their_order():
    reports = traffic(1012)
    baseline = Baseline.learn(reports, 10)  # two are left over
    means = np.array([[s.mean for s in r.scores.values()] for r in reports[:1010]])
    assert np.allclose(baseline.blocks, means.reshape(101, 10, 2).mean(axis=1), atol=1e-5)
    assert (baseline.labels, baseline.block_responses) == (("happy", "sad"), 10)
    assert (baseline.model, baseline.probe, baseline.identity) == (
        USUAL.model,
        USUAL.probe,
        USUAL.identity,
    )
    assert np.array_equal(baseline.columns(["sad"])[:, 0], np.array(baseline.blocks)[:, 1])


def test_traffic_is_scored_and_unsteered_and_flagged_ones_belong_to_it():
    flagged = traffic(2)[1]
    assert flagged.scores["happy"].crossings
    assert counts(flagged)
    assert not counts(dataclasses.replace(flagged, receipt=RECEIPT))
    idle = dataclasses.replace(RECEIPT, applied=0)
    assert counts(dataclasses.replace(flagged, receipt=idle))
    assert {r.status for r in every_kind_of_report() if counts(r)} == {"scored"}
    mixed = [*traffic(100, receipt=RECEIPT), *traffic(2500), *every_kind_of_report()[2:4]]
    assert Baseline.learn(mixed, 50).blocks == BASELINE.blocks


def test_every_response_is_a_row_until_there_are_too_many(monkeypatch):
    few = Baseline.learn(traffic(1000))
    assert (len(few.blocks), few.block_responses) == (1000, 1)
    monkeypatch.setattr(baseline_module, "MOST_BLOCKS", 400)
    many = Baseline.learn(traffic(1000))
    assert (len(many.blocks), many.block_responses) == (333, 3)


def test_too_few_responses_are_refused():
    with pytest.raises(EmoGuardError, match=r"needs 1,000 .*, got 999"):
        Baseline.learn(traffic(999))
    with pytest.raises(EmoGuardError, match=r"needs 2,500 .*, got 2,499"):
        Baseline.learn(traffic(2499), 50)
    with pytest.raises(EmoGuardError, match="got 0"):
        Baseline.learn([])


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (60, "at the log's 1 minutes a response the other 900 take 15 hours"),
        (3600, "at the log's 1 hours a response the other 900 take 37.5 days"),
        (0.5, "at the log's 0.5 seconds a response the other 900 take 7.5 minutes"),
        (0, "let more traffic pass$"),
    ],
)
def test_too_few_responses_say_how_long_the_rest_takes(seconds, sentence):
    times = [1e9 + n * seconds for n in range(100)]
    reports = [dataclasses.replace(r, created=t) for r, t in zip(traffic(100), times, strict=True)]
    with pytest.raises(EmoGuardError, match=sentence):
        Baseline.learn(reports)


def test_more_responses_resolve_smaller_moves_and_resemblance_larger_ones():
    few, many = (Baseline.learn(traffic(count)) for count in (1000, 9000))
    least = few.resolution(["sad", "happy"], 100_000)
    assert list(least) == ["sad", "happy"]
    # sqrt(2 log(200,000) / 1,000) = .156 standard deviations
    assert all(0.15 < value < 0.25 for value in least.values())
    assert all(0.04 < v < 0.09 for v in many.resolution(["sad"], 100_000).values())
    twice = [report for report in traffic(1000) for _ in range(4)]
    assert Baseline.learn(twice).resolution(["sad"], 1e5)["sad"] > 0.8 * least["sad"]
    assert few.resolution(["sad"], 0) == {"sad": 0}


def test_excluded_responses_are_counted_with_the_remedy():
    raw, steered = traffic(3000, status="uncalibrated"), traffic(5, receipt=RECEIPT)
    with pytest.raises(EmoGuardError, match="got 0 beside 3,000 uncalibrated: calibrate the model"):
        Baseline.learn(raw, 50)
    with pytest.raises(EmoGuardError, match="got 100 beside 5 steered: let more traffic pass"):
        Baseline.learn([*traffic(100), *steered], 50)


@pytest.mark.parametrize("changes", [{"identity": "other"}, {"probe": "other"}])
def test_responses_of_two_models_or_probes_are_refused(changes):
    with pytest.raises(EmoGuardError, match="one model file and one probe"):
        Baseline.learn([*traffic(2500), *traffic(1, **changes)], 50)


def test_responses_with_other_labels_are_refused():
    other = dataclasses.replace(USUAL, scores={"sad": LabelScore(0.0, None, None)})
    with pytest.raises(EmoGuardError, match="one list of labels"):
        Baseline.learn([*traffic(2500), other], 50)


def test_saving_and_loading_gives_the_same(tmp_path):
    path = tmp_path / "baseline.json"
    BASELINE.save(path)
    assert Baseline.load(path) == BASELINE
    assert Baseline.load(path).digest == BASELINE.digest
    assert [p.name for p in tmp_path.iterdir()] == ["baseline.json"]
    with pytest.raises(EmoGuardError, match="cannot be written"):
        BASELINE.save(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: "{",
        lambda data: "[]",
        lambda data: "[" * 100_000,
        *[
            lambda data, key=key: json.dumps({k: v for k, v in data.items() if k != key})
            for key in ("version", "model", "labels", "blocks", "block_responses", "created")
        ],
        lambda data: json.dumps(data | {"version": 2}),
        lambda data: json.dumps(data | {"labels": ["happy"]}),
        lambda data: json.dumps(data | {"labels": 3}),
        lambda data: json.dumps(data | {"blocks": data["blocks"][:49]}),
        lambda data: json.dumps(data | {"blocks": [["x", "y"]] * 50}),
        lambda data: json.dumps(data | {"blocks": [[float("nan"), 0]] * 50}),
        lambda data: json.dumps(data | {"blocks": [[1e200, 0]] * 50}),
        lambda data: json.dumps(data | {"block_responses": 0}),
        lambda data: json.dumps(data | {"created": "yesterday"}),
    ],
)
def test_an_unsound_baseline_is_refused(tmp_path, change):
    path = tmp_path / "baseline.json"
    BASELINE.save(path)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(EmoGuardError, match="no sound baseline"):
        Baseline.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        Baseline.load(tmp_path / "none")
