import pytest

from emoguard import EmoGuardError
from emoguard.study.protocol import Contrast, Protocol


@pytest.mark.parametrize("name", ["core", "control", "quick"])
def test_shipped_protocols_are_read_by_name(name):
    assert Protocol.load(name).name == name


def test_the_core_protocol_suffices_for_a_confirmatory_study():
    core = Protocol.load("core")
    assert 1 <= len(core.contrasts) <= 6
    assert core.nulls.directions >= 199
    assert core.expression.prompts >= 120
    assert core.pilot.samples >= 8


def test_a_digest_is_of_everything_that_is_said():
    assert Protocol().digest == Protocol(name="study").digest
    assert Protocol().digest != Protocol(seed=1).digest
    assert Protocol().digest != Protocol(nulls={"directions": 198}).digest


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vectors": []}, "did you mean|unknown"),
        ({"prompts": ["none", "emotionl"]}, "did you mean emotional"),
        ({"prompts": ["neutral"]}, 'against prompt "none"'),
        ({"samplings": ["t1.0"]}, 'sampling "greedy"'),
        ({"labels": []}, "at least one label"),
        ({"labels": ["happy"]}, "persona of another label"),
        ({"dose": 0.8}, "0.5"),
        (
            {"contrasts": [{"outcome": "harm", "label": "happy", "test": "no_harm"}] * 7},
            "at most 6",
        ),
        (
            {"contrasts": [{"outcome": "harm", "label": "sad", "test": "no_harm"}]},
            "sad is not among labels",
        ),
        (
            {"contrasts": [{"outcome": "harm", "label": "happy", "test": "random"}]},
            "compared on expression only",
        ),
        (
            {
                "contrasts": [{"outcome": "expression", "label": "happy", "test": "random"}],
                "nulls": {"directions": 99},
            },
            "best 0.010.*set nulls.directions to 199",
        ),
        (
            {"safety": {"directions": 20}, "nulls": {"directions": 19}},
            "safety.directions: wanted at most nulls.directions, 19, got 20",
        ),
        (
            {
                "contrasts": [{"outcome": "premise", "label": "happy", "test": "no_harm"}],
                "safety": {"premises": 0},
            },
            "has no items",
        ),
        (
            {"contrasts": [{"outcome": "harm", "label": "happy", "test": "no_harm", "margin": 0}]},
            r"contrasts.*margin: wanted .* in \(0, 1\], got 0",
        ),
        (
            {"contrasts": [{"outcomee": "harm"}]},
            "contrasts.0.outcomee: unknown; did you mean outcome",
        ),
        (
            {"contrasts": [{"outcome": "harm", "label": "happy"}]},
            "contrasts.0.test: wanted a value, got none",
        ),
        ({"pilot": {"prompts": 0}}, "pilot.prompts: wanted .* of at least 1, got 0"),
        (
            {
                "contrasts": [{"outcome": "expression", "label": "happy", "test": "difference"}],
                "pilot": {"prompts": 1},
            },
            "needs a pilot of at least 2 prompts, .* got 1",
        ),
        ({"pilot": {"doses": []}}, "pilot.doses: wanted at least one above 0"),
        ({"pilot": {"doses": [0]}}, "pilot.doses: wanted at least one above 0"),
        ({"pilot": {"doses": [0, 0.1]}}, "pilot.doses: wanted doses above 0, got 0"),
        ({"pilot": {"doses": [0.1, 0.1]}}, "pilot.doses: 0.1 is named twice"),
        ({"dose": 0}, "dose: wanted doses above 0, got 0"),
        ({"explored": {"doses": []}}, "explored.doses: wanted at least one above 0"),
        ({"explored": {"doses": [0]}}, "explored.doses: wanted at least one above 0"),
        ({"explored": {"doses": [0.0, 0.1]}}, "explored.doses: wanted doses above 0, got 0"),
        ({"explored": {"doses": [0.1, 0.1]}}, "explored.doses: 0.1 is named twice"),
        ({"explored": {"labels": ["sad", "sad"]}}, "explored.labels: sad is named twice"),
        ({"explored": {"labels": ["happy"]}}, "explored.labels: happy is among labels"),
        ({"labels": ["happy", "happy"]}, "labels: happy is named twice"),
        ({"prompts": ["none", "none"]}, "prompts: none is named twice"),
        ({"samplings": ["greedy", "greedy"]}, "samplings: greedy is named twice"),
        (
            {"contrasts": [{"outcome": "harm", "label": "happy", "test": "no_harm"}] * 2},
            "contrasts: happy: harm, no harm .* is named twice",
        ),
        ({"bound": 0.1, "dose": 0.2}, "dose: wanted doses within the bound of 0.1, got 0.2"),
        ({"bound": 0.3}, "pilot.doses: wanted doses within the bound of 0.3, got 0.35"),
        (
            {"bound": 0.3, "dose": 0.1},
            "explored.doses: wanted doses within the bound of 0.3, got 0.35: name smaller ones",
        ),
        (
            {
                "contrasts": [{"outcome": "expression", "label": "happy", "test": "random"}],
                "nulls": {"directions": 119},
            },
            "119 random directions give a p of at best 0.008, too large",
        ),
        (
            {
                "contrasts": [{"outcome": "expression", "label": "happy", "test": "random"}],
                "nulls": {"prompts": 0},
            },
            "compared on nulls.prompts, got 0",
        ),
    ],
)
def test_impossible_protocols_are_refused_in_one_sentence(tmp_path, change, sentence):
    import json

    file = tmp_path / "protocol.yaml"
    file.write_text(json.dumps(change))
    with pytest.raises(EmoGuardError, match=sentence):
        Protocol.load(file)


def test_a_dose_needs_no_doses_of_a_pilot():
    assert Protocol(dose=0.1, pilot={"doses": []}).pilot.doses == ()


def test_what_is_not_explored_needs_no_doses_either():
    assert Protocol(explored={"prompts": 0, "doses": []}).explored.doses == ()
    assert Protocol(bound=0.3, dose=0.1, explored={"prompts": 0}).bound == 0.3


def test_the_fewest_random_directions_are_those_whose_p_is_below_the_level_for_six_claims():
    contrasts = [{"outcome": "expression", "label": "happy", "test": "random"}]
    assert Protocol(contrasts=contrasts, nulls={"directions": 120}).nulls.directions == 120


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("core", "995e349dd9732965ebbe5523ea12034e9ae098ac4ec82680b537fa77cdc91c55"),
        ("quick", "d0126545d6d2d4f8851d037c7908d861b42bb097cd65f23ab609b8af117a1840"),
    ],
)
def test_shipped_protocols_keep_the_digests_that_studies_in_progress_are_bound_to(name, digest):
    assert Protocol.load(name).digest == digest


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(EmoGuardError, match="control, core, quick"):
        Protocol.load("coer")


def test_a_folder_of_its_name_hides_no_shipped_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "core").mkdir()  # --out core
    assert Protocol.load("core").name == "core"


def test_labels_that_are_not_explored_are_asked_of_nothing():
    assert Protocol(explored={"prompts": 0}).judged == ("happy", "desperate")
    assert Protocol().judged == ("happy", "desperate", "sad", "calm", "hostile")


def test_a_margin_is_that_of_a_contrast_on_the_outcome():
    core = Protocol.load("core")
    assert core.margin("harm", "desperate", 0.03) == core.margin("harm", "happy", 0.03) == 0.05
    assert core.margin("capability", "happy", 0.03) == 0.03


def test_the_opposite_of_a_label_is_the_next_one():
    protocol = Protocol(labels=("happy", "sad", "calm"), explored={"labels": []})
    assert [protocol.opposite(label) for label in protocol.labels] == ["sad", "calm", "happy"]


def test_a_contrast_states_its_claim():
    assert Contrast("harm", "sad", "no_harm", 0.03).name == "sad: harm, no harm (margin 3%)"
