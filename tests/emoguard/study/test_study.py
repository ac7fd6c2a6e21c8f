"""A whole study on a model without weights, whose vectors do what is planted."""

import dataclasses
import json
import re
from importlib.resources import files

import numpy as np
import pytest

from emoguard import EmoGuardError, Guard
from emoguard.steering.plan import Plan
from emoguard.study import study as study_module
from emoguard.study import tasks
from emoguard.study.analysis import _unmatched
from emoguard.study.binding import bound_to
from emoguard.study.causal import nulls
from emoguard.study.judges import Lexicon
from emoguard.study.matching import Matched, match
from emoguard.study.noise import gumbel
from emoguard.study.outcomes import Outcomes
from emoguard.study.pictures import draw
from emoguard.study.protocol import Protocol
from emoguard.study.report import markdown
from emoguard.study.runner import OutOfTimeError, Runner, groups, perform
from emoguard.study.speech import Given, Row
from emoguard.study.statistics import benjamini_hochberg
from emoguard.study.store import Store
from emoguard.study.study import Study, data_folder, guard_of, judges
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

from .speaking import FakeSpeech

PROTOCOL = Protocol(
    labels=("happy", "desperate"),
    pilot={"prompts": 6, "samples": 4, "tokens": 24},
    expression={"prompts": 30, "tokens": 24},
    safety={"premises": 40, "written": 5, "tokens": 12, "capability": 5},
    nulls={"directions": 199, "prompts": 12, "tokens": 12},
    explored={"prompts": 6, "tokens": 12, "labels": ["calm"]},
    contrasts=[
        {"outcome": "expression", "label": "happy", "test": "difference"},
        {"outcome": "expression", "label": "happy", "test": "random"},
        {"outcome": "premise", "label": "happy", "test": "no_harm", "margin": 0.05},
    ],
    dose=0.2,
)

DOOR = FakeResiduals()
PROBE = make_probe(DOOR, ("happy", "desperate"), (1, 3))
CALIBRATION = make_calibration(PROBE, FAKE_IDENTITY)
GUARD = Guard(PROBE, [CALIBRATION])


HAND = {
    each["text"]: each["expresses"]
    for line in (files("emoguard.study") / "labelled_answers" / "expression.jsonl")
    .read_text("utf-8")
    .splitlines()
    for each in [json.loads(line)]
}


class Agreeing(Lexicon):
    """A lexicon that agrees with all labels by hand."""

    def scores(self, label, texts):
        own = super().scores(label, texts)
        by_hand = [2.0 if label in HAND.get(text, ()) else -2.0 for text in texts]
        return np.where([text in HAND for text in texts], by_hand, own)


def started(folder, speech=None, protocol=PROTOCOL, judge=None):
    speech = speech or FakeSpeech(strength=15.0)
    store = Store(folder, bound_to(protocol, GUARD, speech.identity, "fake"))
    judge = judge or Agreeing()
    return Study(protocol, speech, store, [judge], None, {"happy": "usable"})


def runner(study, **options):
    return Runner(study.speech, study.store, seed=0, **{"piece_seconds": 3600, **options})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    study = started(tmp_path_factory.mktemp("study"))
    study.run(runner(study))
    return study


@pytest.fixture(scope="module")
def results(done):
    return done.results({"model": "fake"})


@pytest.mark.slow
def test_a_vector_that_moves_expression_is_found_to(results):
    difference, random, _ = results["contrasts"]
    assert difference["verdict"] == "holds"
    assert difference["estimate"][1] > 0
    assert random["verdict"] == "holds"
    assert random["p"] == pytest.approx(1 / 200)
    effects = results["causal"]["effects"]["happy"]["lexicon"]["effects"]
    assert effects["vector"]["all"]["estimate"][0] > 0.2
    assert effects["vector reversed"]["all"]["estimate"][0] < 0


@pytest.mark.slow
def test_a_margin_that_too_few_items_can_show_stays_untested_with_the_number_needed(results):
    harm = results["contrasts"][2]
    assert harm["verdict"] == "untested"
    assert harm["needed"] > harm["items"]
    assert f"{harm['needed']} items needed" in results["verdict"]


@pytest.mark.slow
def test_the_tracks_are_apart(results):
    assert set(results) == {
        "emoguard", "about", "pilot", "reproducible", "causal", "safety", "contrasts", "verdict",
    }  # fmt: skip
    assert results["reproducible"]["happy"] == "usable"
    text = markdown(results)
    assert text.index("## R:") < text.index("## C:") < text.index("## S:")
    assert "Nothing of it transfers to larger models" in text


@pytest.mark.slow
def test_exploratory_tables_show_p_that_are_corrected_over_the_table(results):
    causal = results["causal"]
    tables = [
        [each["all"] for each in judges["lexicon"]["effects"].values()]
        for judges in causal["effects"].values()
    ]
    tables.append([each for by in causal["necessity"].values() for each in by.values()])
    for effects in tables:
        wanted = benjamini_hochberg([each["p"] for each in effects])
        assert [each["p, adjusted"] for each in effects] == wanted
    columns = [line for line in markdown(results).splitlines() if line.startswith("| ")]
    for line in columns:
        assert not re.search(r"\| p \|", line) or line.startswith("| claim ")


@pytest.mark.slow
def test_a_part_of_a_study_tests_no_claim_and_says_so_first(tmp_path, done):
    study = started(tmp_path)
    for key, record in done.store.records.items():
        if not key.startswith("explored/"):
            study.store.add(record)
    partial = study.results({})
    assert not partial["about"]["complete"]
    for each in partial["contrasts"]:
        assert (each["verdict"], each["why"]) == ("untested", "the run is not complete")
    lines = markdown(partial).split("\n\n")
    assert lines[2].startswith("**The run is not complete")
    assert "hold" not in partial["verdict"]
    study.run(runner(study))
    whole = study.results({})
    assert whole["about"]["complete"]
    assert whole["contrasts"][0]["verdict"] == "holds"
    assert "not complete" not in markdown(whole)


@pytest.mark.slow
def test_random_directions_are_matched_in_realised_dose(results):
    low, high = results["causal"]["nulls"]["matched"][1:]
    assert 0.98 <= low <= high <= 1.02
    realised = results["causal"]["nulls"]["realised"]["happy+"]
    assert results["causal"]["nulls"]["realised, random"][0] == pytest.approx(realised, rel=0.02)


@pytest.mark.slow
def test_frozen_decisions_are_used_and_never_made_again(done):
    before = done.store.records["frozen"]["data"]
    assert done.frozen().dose == 0.2
    assert done.store.records["frozen"]["data"] is before


@pytest.mark.slow
def test_a_study_resumes_without_asking_again_and_ends_with_the_same_records(tmp_path, done):
    study = started(tmp_path)
    with pytest.raises(OutOfTimeError):
        study.run(runner(study, seconds=0.05))
    study.store.close()
    some = len(study.store.records)
    assert 0 < some < len(done.store.records)
    again = started(tmp_path)
    again.run(runner(again, piece_seconds=0.5))
    assert again.store.digest == done.store.digest
    assert len(again.store.pieces) > 1
    count = again.speech.asked
    again.run(runner(again))
    assert again.speech.asked == count


PLAIN = Protocol(**{**vars(PROTOCOL), "explored": {"labels": []}, "nulls": {"directions": 0},
                    "contrasts": ()})  # fmt: skip


def test_a_fault_of_steering_ends_an_answer_instead_of_finishing_it_unsteered():
    steering = guard_of(PLAIN, GUARD, DOOR).policy.steering
    assert steering.on_fault == "stop"
    assert steering.max_dose_ratio == PLAIN.bound


def test_a_dose_is_of_no_size_without_a_calibration_of_the_model_file():
    with pytest.raises(EmoGuardError, match=r"no calibration of .*: make one with emoguard cal"):
        guard_of(PLAIN, Guard(PROBE), DOOR)


def test_tasks_are_performed_together_up_to_the_rows_of_a_batch():
    listed = [task for task in tasks.pilot(PROTOCOL) if not task.tokens]
    rows = listed[0].rows
    assert rows > 1
    sizes = [len(group) for group in groups(listed[:7], 3 * rows + 1)]
    assert sizes == [3, 3, 1]
    assert [len(group) for group in groups(listed[:2], 1)] == [1, 1]
    mixed = tasks.pilot(PROTOCOL)
    assert all(len({task.tokens for task in group}) == 1 for group in groups(mixed, 10_000))
    assert [task for group in groups(mixed, 100) for task in group] == mixed


@pytest.mark.parametrize("rows", [1, 128])
def test_tasks_performed_together_have_the_records_they_have_alone(rows):
    for listed in (tasks.pilot(PROTOCOL), tasks.safety(PROTOCOL, 0.2, None, {})):
        for group in groups(listed, 200):
            speech = FakeSpeech(strength=15.0, rows=rows)
            alone = [perform(speech, [task], 0)[0] for task in group]
            assert perform(speech, group, 0) == alone


class Listening(FakeSpeech):
    """Keeps the rows that it was asked to write."""

    def write(self, rows, tokens):
        self.heard = rows
        return super().write(rows, tokens)


@pytest.mark.parametrize("seed", [0, 7])
def test_all_cells_of_an_item_share_their_noise_and_no_two_items_or_samples_do(seed):
    written = [task for task in tasks.pilot(PROTOCOL) if task.tokens][:2]
    for listed in (written, tasks.expression(PROTOCOL, 0.2)[:2]):
        speech = Listening()
        perform(speech, listed, seed)
        # Within a task rows are ordered by prompt; each row's noise must be that of its sample.
        cells = [cell for task in listed for cell in sorted(task.cells, key=lambda c: c.prompt)]
        names = [task.seeded for task in listed for _ in task.cells]
        assert [(row.seed, row.item) for row in speech.heard] == [
            (seed + cell.sample, name) for cell, name in zip(cells, names, strict=True)
        ]
        samples = {(cell.sample, name) for cell, name in zip(cells, names, strict=True)}
        assert len({(row.seed, row.item) for row in speech.heard}) == len(samples)


def test_a_group_cut_short_is_performed_whole_again_and_stored_once(tmp_path):
    listed = [task for task in tasks.pilot(PROTOCOL) if not task.tokens][:6]
    whole, cut = started(tmp_path / "whole"), started(tmp_path / "cut")
    runner(whole).run(listed)
    asked = whole.speech.asked
    assert asked == sum(task.rows for task in listed)
    kept = whole.store.records
    for task in listed[:2]:
        cut.store.add(kept[task.key])
    done = []
    runner(cut).run(listed, done.append)
    assert cut.speech.asked == asked
    assert done == listed
    assert cut.store.digest == whole.store.digest
    assert all(cut.store.records[task.key] == kept[task.key] for task in listed[:2])


def test_the_time_of_a_group_is_shared_by_rows(tmp_path, monkeypatch):
    clock = iter([0.0, 6.0])
    monkeypatch.setattr("emoguard.study.runner.time.process_time", lambda: next(clock))
    first, second, *_ = [task for task in tasks.safety(PROTOCOL, 0.2, None, {}) if not task.tokens]
    second = dataclasses.replace(second, cells=second.cells[: len(second.cells) // 2])
    study = started(tmp_path)
    runner(study).run([first, second])
    seconds = [study.store.records[task.key]["seconds"] for task in (first, second)]
    assert sum(seconds) == pytest.approx(6.0, abs=1e-3)
    assert seconds[0] / seconds[1] == pytest.approx(first.rows / second.rows, rel=1e-3)


def test_more_prompts_than_there_are_are_refused_while_the_cost_is_measured(tmp_path):
    protocol = dataclasses.replace(PROTOCOL, pilot={"prompts": 200})
    with pytest.raises(EmoGuardError, match=r"pilot.prompts: wanted 200, there are 132"):
        started(tmp_path, protocol=protocol).cost()


@pytest.mark.parametrize("rows", [1, 24, 128])
def test_costs_are_of_every_part_and_cost_no_record(tmp_path, rows):
    study = started(tmp_path, FakeSpeech(rows=rows))
    named: list[str] = []
    actual = {each.block: each for each in study.cost(named.append)}
    assert named == list(actual)
    wanted = {"pilot, answers", "matched", "expression", "nulls", "premise", "explored"}
    assert wanted <= actual.keys()
    assert actual["expression"].cells == 30 * 60
    assert all(each.seconds > 0 for each in actual.values())
    assert not study.store.records


@pytest.mark.slow
def test_results_are_json_and_draw_again_without_the_run(tmp_path, results):
    again = json.loads(json.dumps(results, allow_nan=False))
    assert markdown(again) == markdown(results)
    written = draw(again, tmp_path)
    assert {"attribution.png", "random-directions.png", "dose-curves.png"} <= set(written)
    for name in written:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_other_judges_than_the_pilot_had_are_refused(done):
    class Other(Lexicon):
        name = "other"

    again = Study(PROTOCOL, done.speech, done.store, [Agreeing(), Other()], None, {})
    with pytest.raises(EmoGuardError, match="levels for the judges lexicon, got lexicon, other"):
        again.results({})
    with pytest.raises(EmoGuardError, match="give the same ones"):
        again.frozen()


def test_without_a_finished_pilot_there_are_no_results(tmp_path):
    with pytest.raises(EmoGuardError, match="no finished pilot"):
        started(tmp_path).results({})


@pytest.mark.slow
def test_a_vector_that_does_nothing_is_not_found_to_do_something(tmp_path):
    study = started(tmp_path, FakeSpeech(strength=0.0))
    study.run(runner(study))
    difference, random, _ = study.results({})["contrasts"]
    assert difference["verdict"] != "holds"
    assert random["verdict"] != "holds"


@pytest.mark.slow
def test_a_vector_that_makes_a_model_agree_with_falsehoods_fails_no_harm(tmp_path):
    protocol = Protocol(**{**vars(PROTOCOL), "nulls": {"directions": 0}, "explored": {"prompts": 0},
                           "contrasts": PROTOCOL.contrasts[2:]})  # fmt: skip
    study = started(tmp_path, FakeSpeech(strength=15.0, harm=30.0), protocol)
    study.run(runner(study))
    results = study.results({})
    (harm,) = results["contrasts"]
    assert harm["verdict"] == "fails"
    assert harm["estimate"][1] > 0
    # Agreeing with everything is bias, not knowledge.
    detection = results["safety"]["premise"]["detection"]
    assert detection["none|greedy|happy+"]["c"] < detection["none|greedy|zero"]["c"] - 0.3
    assert "nulls" not in {key.partition("/")[0] for key in study.store.records}


def with_control(harm, tmp_path):
    """Return the results of false premises alone, asked under 19 random directions, too."""
    changed = {
        "expression": {"prompts": 0}, "explored": {"prompts": 0}, "contrasts": (),
        "nulls": {"directions": 19, "prompts": 0},
        "safety": {"premises": 40, "written": 0, "capability": 0, "directions": 19},
    }  # fmt: skip
    study = started(
        tmp_path, FakeSpeech(strength=0.0, harm=harm), Protocol(**{**vars(PROTOCOL), **changed})
    )
    study.run(runner(study))
    return study.results({"model": "fake"})


def test_a_side_effect_is_set_beside_those_of_random_directions(tmp_path):
    results = with_control(30.0, tmp_path)
    among = results["safety"]["premise"]["all items"]["among random"]["happy"]
    assert among["p"] == pytest.approx(1 / 20)
    assert len(among["effects"]) == 19
    assert (
        among["observed"]
        == results["safety"]["premise"]["all items"]["happy"]["vector"]["estimate"]
    )
    text = markdown(results)
    assert "random directions of the same realised dose move (exploratory)" in text
    assert "| premise, all items | happy |" in text
    assert draw(results, tmp_path) == ["safety.png"]


def test_directions_that_reach_the_dose_are_asked_in_place_of_the_others(tmp_path):
    changed = {"nulls": {"directions": 199, "prompts": 0}, "safety": {"directions": 2},
               "contrasts": ()}  # fmt: skip
    study = started(tmp_path, FakeSpeech(), Protocol(**{**vars(PROTOCOL), **changed}))
    matched = Matched(
        {"random-0": 0.5, "random-1": 0.2, "random-2": 0.2},
        {"random-0": 0.6, "random-1": 1.0, "random-2": 1.0},
        dict.fromkeys(("random-0", "random-1", "random-2"), 0.1), 0.1,
    )  # fmt: skip
    (task, *_) = (each for each in study.tasks(0.2, matched) if each.block == "premise")
    asked = [cell.vector.name for cell in task.cells if cell.vector.name.startswith("random-")]
    assert asked == ["random-1", "random-2"]


def test_all_directions_are_matched_as_planned_and_counted(tmp_path):
    changed = {"nulls": {"directions": 5, "prompts": 0}, "safety": {"directions": 2},
               "contrasts": ()}  # fmt: skip
    study = started(tmp_path, FakeSpeech(), Protocol(**{**vars(PROTOCOL), **changed}))
    (planned,) = (each for each in study.cost() if each.block == "matched")
    counts: list[int] = []
    # Two are asked about, and the first two may not reach the dose.
    assert list(study.matched(0.1, counts.append).doses) == [f"random-{n}" for n in range(5)]
    assert len(counts) > 1
    assert sum(counts) == planned.cells == 3 * (2 + 3 * 5)
    assert study.store.records["matched"]["seconds"] > 0
    again: list[int] = []
    study.matched(0.1, again.append)
    assert again == [planned.cells]


def test_directions_that_nothing_asks_about_are_not_matched(tmp_path):
    changed = {"nulls": {"directions": 5, "prompts": 0}, "contrasts": ()}
    study = started(tmp_path, FakeSpeech(), Protocol(**{**vars(PROTOCOL), **changed}))
    assert "matched" not in {each.block for each in study.cost()}
    assert study.matched(0.1) is None


def test_matching_counts_in_the_time_of_a_run_and_is_not_begun_without_any(tmp_path, monkeypatch):
    changed = {"nulls": {"directions": 5, "prompts": 0}, "safety": {"directions": 2},
               "contrasts": ()}  # fmt: skip
    protocol = Protocol(**{**vars(PROTOCOL), **changed})
    study = started(tmp_path / "one", FakeSpeech(), protocol)
    runner(study).run(tasks.pilot(protocol))
    limited = runner(study, seconds=1000.0)
    monkeypatch.setattr(study_module.time, "process_time", iter([0.0, 2000.0]).__next__)
    with pytest.raises(OutOfTimeError):
        study.run(limited)
    assert study.store.records["matched"]["seconds"] == 2000.0
    monkeypatch.undo()
    study = started(tmp_path / "two", FakeSpeech(), protocol)
    runner(study).run(tasks.pilot(protocol))
    with pytest.raises(OutOfTimeError):
        study.run(runner(study, seconds=0.0))
    assert "matched" not in study.store


def test_a_small_bound_holds_while_speeds_are_measured(tmp_path):
    changed = {"dose": None, "bound": 0.05, "pilot": {"doses": [0.02, 0.05]},
               "explored": {"prompts": 0}}  # fmt: skip
    speech = FakeSpeech()
    study = started(tmp_path, speech, Protocol(**{**vars(PROTOCOL), **changed}))
    doses, write = [], speech.write

    def noted(rows, *arguments, **options):
        doses.extend(dose for row in rows if row.plan for dose in row.plan.add.values())
        return write(rows, *arguments, **options)

    speech.write = noted
    study.cost()
    assert doses
    assert max(map(abs, doses)) == 0.05


def test_a_side_effect_that_random_directions_have_too_is_no_side_effect_of_the_label(tmp_path):
    results = with_control(0.0, tmp_path)
    assert results["safety"]["premise"]["all items"]["among random"]["happy"]["p"] > 0.05


@pytest.mark.slow
def test_a_judge_that_disagrees_with_labels_by_hand_makes_its_outcome_exploratory(tmp_path):
    changed = {"labels": ("happy", "desperate"), "contrasts": ({
        "outcome": "expression", "label": "happy", "test": "difference"},),
        "explored": {"prompts": 0, "labels": []}, "nulls": {"directions": 0}}  # fmt: skip
    # The level of a model that speaks in twenty words is none for answers of real ones.
    study = started(tmp_path, None, Protocol(**{**vars(PROTOCOL), **changed}), Lexicon())
    study.run(runner(study))
    (difference,) = study.results({})["contrasts"]
    assert difference["verdict"] == "untested"
    assert "exploratory: the lexicon agrees with labels by hand with κ" in difference["why"]


@pytest.mark.slow
def test_no_headroom_is_said_and_nothing_claimed(tmp_path):
    class Deaf(Lexicon):
        def scores(self, label, texts):
            return np.zeros(len(texts))

    study = started(tmp_path, judge=Deaf())
    study.run(runner(study))
    difference, *_ = study.results({})["contrasts"]
    assert difference["verdict"] == "untested"
    assert "no headroom: 0%" in difference["why"]


def test_the_pilot_chooses_the_largest_dose_that_stays_surgical(tmp_path):
    protocol = Protocol(
        **{**vars(PROTOCOL), "dose": None, "pilot": {"prompts": 8, "samples": 2, "tokens": 40}}
    )
    study = started(tmp_path, FakeSpeech(strength=60.0), protocol)
    with pytest.raises(OutOfTimeError):
        study.run(runner(study, seconds=1e-9))
    runner(study).run(tasks.pilot(protocol))
    frozen = study.frozen()
    chosen = [each[f"{frozen.dose:g}"]["regime"] for each in frozen.regimes.values()]
    assert chosen == ["surgical"] * 2
    assert frozen.dose < 0.35


def test_a_zero_vector_writes_the_same_as_none_at_every_temperature():
    speech = FakeSpeech()
    before = speech.prompt("How do I tie a scarf?")
    for temperature in (0.0, 0.7, 1.0):
        plans = [None, Plan(add={"happy": 0.0})]
        none, zero = speech.write([Row(before, plan, temperature, 0, 5) for plan in plans], 20)
        assert none == zero


def test_matching_moves_doses_until_the_realised_ones_agree():
    matching = match(
        FakeSpeech(ratio=1.3), ["a", "b"], ["happy"], ["random-0", "random-1"], 0.1, bound=0.5
    )
    assert matching.doses["random-0"] == pytest.approx(0.1 / 1.3, rel=1e-3)
    assert matching.realised["random-0"] == pytest.approx(1, abs=1e-3)
    assert matching.by_divergence(1, 0.5) == {}  # it would take more
    assert list(matching.by_divergence(1, 100)) == ["random-0"]


def test_no_direction_is_matched_beyond_the_bound():
    names = ["random-0", "random-1"]
    matching = match(FakeSpeech(ratio=0.5), ["a", "b"], ["calm"], names, 0.1, bound=0.1234567)
    assert set(matching.doses.values()) == {0.1234567}
    assert matching.realised["random-0"] == pytest.approx(0.617, abs=1e-3)
    assert matching.reached == []
    assert dataclasses.replace(matching, label_divergence=1e6).by_divergence(2, 0.2) == {}


@pytest.mark.slow
def test_too_gentle_directions_count_in_no_p(done):
    matched = done.matched(0.2)
    short = dict.fromkeys(list(matched.realised)[:100], 0.9)
    gentler = dataclasses.replace(matched, realised={**matched.realised, **short})
    assert len(gentler.reached) == 99
    outcomes = Outcomes(
        PROTOCOL, done.frozen(), gentler, done.store.records, {"lexicon": Agreeing()}
    )
    drawn = nulls(outcomes)
    assert (drawn["directions"], drawn["reached"]) == (199, 99)
    assert drawn["happy"]["lexicon"]["p"] >= 1 / 100
    why = _unmatched(outcomes, PROTOCOL.contrasts[1])
    assert why == "only 99 random directions reach the labels' dose within the bound"


def test_weighing_gives_the_log_probability_of_every_token():
    speech = FakeSpeech()
    before = speech.prompt("x")
    (whole,) = speech.weigh([Given(before, (1, 2))], whole=True)
    assert np.allclose(np.exp(whole.whole).sum(axis=1), 1, atol=1e-5)
    assert whole.logs[0] == pytest.approx(float(whole.whole[0, 1]), abs=1e-5)
    (same,) = speech.weigh([Given(before, (1, 2), None, whole.whole)])
    assert same.divergence == pytest.approx(0, abs=1e-5)
    gumbel.cache_clear()


def test_data_and_judges_that_are_missing_are_missed_before_the_run(tmp_path):
    core = Protocol.load("core")
    with pytest.raises(EmoGuardError, match="name their folder by --data"):
        data_folder(core, None)
    with pytest.raises(EmoGuardError, match="there is no folder"):
        data_folder(core, str(tmp_path / "nowhere"))
    people = Protocol(judges={"people": "goemotions/dev.tsv", "primary": "classifier"})
    with pytest.raises(EmoGuardError, match=r"the classifier takes judges.people, and --data"):
        judges(people, None)
    with pytest.raises(
        EmoGuardError, match=r"the embeddings takes .* --embeddings: give what is mis"
    ):
        judges(Protocol(judges={"primary": "embeddings"}), None)
    with pytest.raises(EmoGuardError, match="--embeddings alone makes no judge"):
        judges(Protocol(), None, tmp_path)


@pytest.mark.parametrize(
    "where", [{"labels": ("happy", "bored")}, {"explored": {"labels": ["bored"]}}]
)
def test_a_label_that_a_judge_does_not_know_is_refused_before_the_run(where):
    with pytest.raises(EmoGuardError, match="no valence of bored"):
        judges(Protocol(**where), None)
