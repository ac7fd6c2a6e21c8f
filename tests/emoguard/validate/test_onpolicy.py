"""Monitor and text detectors on the same responses, at the same rate: counted by hand."""

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit.corpora import default_labels
from emoguard.validate.agreement import agreement
from emoguard.validate.judged import Task
from emoguard.validate.onpolicy import Prompt, Response, on_policy, prompts

TASK = Task(("happy", "sad"), (1, -1))


def response(kind, label="", z=(0.0, 0.0, 0.0), tokens=8, language="en"):
    return Response(Prompt(kind, label, "?", language), "", np.tile(np.float32(z), (tokens, 1)))


def some_responses():
    """40 neutral responses, one of them above 1; of 10 sad personas 6; of 5 sad benign ones 2."""
    responses = [response("neutral", z=(0, n / 20, 0)) for n in range(20)]
    responses += [response("neutral", language="de") for _ in range(19)]
    responses += [response("neutral", z=(0, 1.5, 0))]
    responses += [response("persona", "sad", z=(0, 2 if n < 6 else 0, 0)) for n in range(10)]
    responses += [response("persona", "happy", z=(3, 0, 3))]
    return responses + [response("benign", "sad", z=(0, 2 if n < 2 else 0, 0)) for n in range(5)]


def measured(levels=(1.0, 1.0, 1.0), words=None, responses=None):
    responses = some_responses() if responses is None else responses
    words = np.zeros((len(responses), 3)) if words is None else words
    return on_policy(TASK, responses, levels, {"words": words}, window=4, hysteresis=0.25)


def test_shares_at_the_certified_threshold_are_counted_per_label():
    sad = measured().labels["sad"]
    assert sad.certified
    assert sad.level == 1.0
    assert sad.monitor.neutral.value == 1 / 40
    assert sad.monitor.persona.value == 0.6
    assert sad.monitor.benign.value == 0.4
    assert sad.monitor.persona.low < 0.6 < sad.monitor.persona.high


def test_an_axis_is_positive_for_pleasant_personas():
    assert measured().labels["valence"].monitor.persona.value == 1.0


def test_a_text_detector_flags_no_more_neutral_responses_than_the_monitor():
    responses = some_responses()
    words = np.random.default_rng(0).normal(size=(len(responses), 3))
    sad = measured(words=words).labels["sad"]
    assert sad.words["words"].neutral.value == sad.monitor.neutral.value
    # One that knows the personas finds all of them at that rate; one that knows nothing does not.
    words[:, 1] = [r.prompt.kind == "persona" and r.prompt.label == "sad" for r in responses]
    sure = measured(words=words).labels["sad"]
    assert sure.words["words"].persona.value == 1.0
    assert sure.words["words"].neutral.value == 0.0
    assert measured().labels["sad"].words["words"].persona.value == 0.0


def test_without_a_certificate_the_threshold_flags_one_neutral_response_in_twenty():
    happy = measured(levels=(None, 1.0, 1.0)).labels["sad"]
    assert happy.certified
    sad = measured(levels=(1.0, None, 1.0)).labels["sad"]
    assert not sad.certified
    assert sad.monitor.neutral.value == 2 / 40


def test_crossings_are_counted_per_thousand_positions_and_language():
    sad = measured().labels["sad"]
    assert sad.per_1000 == {"en": pytest.approx(1000 / (21 * 5)), "de": 0.0}


def test_any_label_counts_a_response_once():
    shares = measured().any_label
    assert shares["neutral"].value == 1 / 40
    assert shares["persona"].value == 7 / 11


def test_responses_shorter_than_the_window_are_left_out_and_counted():
    result = measured(responses=[*some_responses(), response("neutral", tokens=3)])
    assert result.short == 1
    assert result.responses == {"neutral": 40, "persona": 11, "benign": 5}


def test_too_few_neutral_responses_are_refused():
    with pytest.raises(EmoGuardError, match="20 neutral responses of 4 tokens, got 10"):
        measured(responses=some_responses()[:10])


@pytest.mark.parametrize("kind", ["persona", "benign"])
def test_every_label_has_prompts_of_its_own(kind):
    every = prompts(kind)
    assert {p.label for p in every} == {label.name for label in default_labels()}
    assert len({p.text for p in every}) == len(every) >= 120


def test_two_files_are_compared_token_by_token_and_flag_by_flag():
    rng = np.random.default_rng(0)
    z = [rng.normal(size=(20, 2)).astype(np.float32) for _ in range(12)]
    other = [rows + np.float32(0.5) for rows in z]
    levels = np.array([0.6, np.inf])
    same = agreement(("a", "a"), z=z, other=z, again=z, levels=(levels, levels), window=4)
    assert (same.gap, same.gap_95, same.rerun, same.flags) == (0.0, 0.0, 0.0, 1.0)
    assert same.rank == pytest.approx(1.0)
    assert same.both == same.either > 0
    moved = agreement(("a", "b"), z=z, other=other, again=z, levels=(levels, levels), window=4)
    assert moved.gap == pytest.approx(0.5, abs=1e-6)
    assert moved.rank == pytest.approx(1.0)
    assert moved.both == same.both
    assert moved.either > moved.both
    assert moved.flags == pytest.approx(1 - (moved.either - moved.both) / 24)
