"""The watch on the smallest runtime: what every runtime gets without writing it."""

import dataclasses
import logging
import threading

import numpy as np
import pytest

import emoguard
from emoguard import EmoGuardError, Guard, Plan, Policy, Request
from emoguard.policy.reload import PolicyFile
from emoguard.runtime.watch import MARK, Watch
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeJoint,
    FakeModel,
    ListSink,
    make_calibration,
    make_probe,
    measure_calibration,
)

PROMPT = (1, 5, 9)
OTHER_FILE = dataclasses.replace(FAKE_IDENTITY, adapters=("tone",))


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def probe(model):
    return make_probe(model.door)


def watched(model, guard):
    return Watch(guard, FakeJoint(model))


def test_a_model_is_marked_while_it_is_watched_and_left_as_it_was(model, probe):
    before = dict(vars(model))
    with watched(model, Guard(probe)) as watch:
        assert vars(model)[MARK] is watch
        with pytest.raises(EmoGuardError, match="watched already"):
            watched(model, Guard(probe))
    assert vars(model) == before


@pytest.mark.parametrize("where", ["hooked", "wrapped"])
def test_an_attach_that_fails_leaves_nothing_behind(model, probe, where, monkeypatch):
    def broken(*_):
        raise RuntimeError("injected")

    before = dict(vars(model))
    guard = Guard(probe)
    with monkeypatch.context() as patch:
        patch.setattr(FakeJoint, where, broken)
        with pytest.raises(RuntimeError, match="injected"):
            watched(model, guard)
    assert vars(model) == before
    watched(model, guard).detach()


def test_a_standing_plan_that_cannot_be_done_is_refused_at_attach(model, probe):
    policy = Policy(steering=SteeringPolicy(plan=Plan(cap={"sad": 0.9})))
    before = dict(vars(model))
    with pytest.raises(EmoGuardError, match="calibration"):
        watched(model, Guard(probe, (), policy))
    assert vars(model) == before


def test_a_policy_that_the_runtime_cannot_serve_is_refused_while_it_is_watched(
    model, probe, tmp_path
):
    def refuse(_steering):
        raise EmoGuardError("not here")

    path = tmp_path / "policy.yaml"
    path.write_text("")
    guard = Guard(probe, [measure_calibration(model.door, probe)], PolicyFile(path))
    joint = FakeJoint(model)
    joint.refuse = refuse
    with Watch(guard, joint):
        path.write_text("steering: {plan: {cap: {sad: 0.9}}}")
        guard.refresh()
        assert "not here" in guard.policy_file.error
    path.write_text("steering: {plan: {cap: {sad: 0.8}}}")
    guard.refresh()
    assert guard.policy_file.successful


def test_recordings_hold_the_reports_of_their_block_in_order(model, probe):
    with watched(model, Guard(probe)) as watch:
        model.generate(PROMPT, 2)
        with watch.recording() as outer:
            model.generate(PROMPT, 2, emoguard=Request("a"))
            with watch.recording() as inner:
                model.generate(PROMPT, 2, emoguard=Request("b"))
        model.generate(PROMPT, 2)
    assert [report.id for report in outer] == ["a", "b"]
    assert [report.id for report in inner] == ["b"]
    assert len(watch.reports) == 4


def test_a_recording_may_be_of_one_request(model, probe):
    with watched(model, Guard(probe)) as watch, watch.recording("a") as reports:
        for name in ("b", "a", "c"):
            model.generate(PROMPT, 2, emoguard=Request(name))
    assert [report.id for report in reports] == ["a"]


def test_recordings_hold_reports_of_other_threads(model, probe):
    with watched(model, Guard(probe)) as watch, watch.recording() as reports:
        thread = threading.Thread(target=model.generate, args=(PROMPT, 2))
        thread.start()
        thread.join()
    assert len(reports) == 1


def test_the_reading_of_an_open_response_is_available(model, probe):
    with watched(model, Guard(probe)) as watch:
        assert watch.live() is None
        first = watch.sessions.open(Request(), PROMPT)
        watch.sessions.commit(first, 7, np.ones(2, np.float32))
        second = watch.sessions.open(Request(), PROMPT)
        assert len(watch.live().token_ids) == 0
        watch.sessions.close(second, "stop")
        assert watch.live().token_ids.tolist() == [7]
        watch.sessions.close(first, "stop")
        assert watch.live() is None


def test_a_session_is_reported_once_by_any_closer(model, probe):
    with watched(model, Guard(probe)) as watch:
        session = watch.sessions.open(Request(), PROMPT)
        closing = [
            threading.Thread(target=watch.sessions.close, args=(session, "stop")) for _ in range(8)
        ]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        assert watch.sessions.close(session, "stop") is None
    assert len(watch.reports) == 1


def test_detaching_ends_open_responses_as_cancelled(model, probe):
    watch = watched(model, Guard(probe))
    watch.sessions.open(Request("open"), PROMPT)
    watch.detach()
    watch.detach()
    assert [(report.id, report.finish) for report in watch.reports] == [("open", "cancelled")]


def test_a_request_whose_client_is_gone_is_closed_and_others_continue(model, probe):
    with watched(model, Guard(probe)) as watch:
        call = Request("call")
        gone = [watch.sessions.open(dataclasses.replace(call, id=f"call-{n}")) for n in range(2)]
        other = watch.sessions.open(Request("other"))
        watch.abandon("call")
        assert [session.closed for session in (*gone, other)] == [True, True, False]
    assert [report.id for report in watch.reports] == ["call-0", "call-1", "other"]


def test_another_file_under_the_watch_is_uncalibrated_and_in_its_own_scale(model, probe):
    guard = Guard(probe, [make_calibration(probe, FAKE_IDENTITY)])
    with watched(model, guard) as watch:
        for identity in (FAKE_IDENTITY, OTHER_FILE, FAKE_IDENTITY):
            watch.joint.identity = lambda identity=identity: identity
            model.generate(PROMPT, 3, emoguard=Request(scores="tokens"))
    first, other, again = watch.reports
    assert [report.status for report in watch.reports] == ["scored", "uncalibrated", "scored"]
    assert other.identity == OTHER_FILE.digest != first.identity == again.identity
    z = np.array([token.z for token in first.tokens])
    projections = np.array([token.z for token in other.tokens])
    assert np.allclose(projections, z * 2.0 + 0.5, atol=1e-5)


def test_a_reading_that_cannot_be_summed_up_is_an_error_report(model, probe, caplog):
    sink = ListSink()
    with Guard(probe, sinks=[sink]) as guard, watched(model, guard) as watch:
        session = watch.sessions.open(Request(), PROMPT)
        for row in (np.ones(2, np.float32), np.ones(5, np.float32)):  # of another width
            watch.sessions.commit(session, 7, row)
        with caplog.at_level(logging.ERROR, "emoguard"):
            report = watch.sessions.close(session, "stop")
        guard.flush()
    assert (report.status, report.completion_tokens, report.faults) == ("error", 2, ("reading",))
    assert sink.reports == [report]
    assert caplog.text.count("reading failed") == 1


def test_a_fault_of_the_joint_at_the_end_is_an_error_report(model, probe):
    def broken(_session):
        raise RuntimeError("injected")

    for part in ("settle", "release"):
        with watched(model, Guard(probe)) as watch:
            setattr(watch.joint, part, broken)
            ids = model.generate(PROMPT, 3)
        assert len(ids) == 3
        assert watch.reports[-1].status == "error"


def test_a_mode_that_is_not_read_is_refused_or_runs_and_says_so(model, probe):
    with watched(model, Guard(probe)) as watch:
        with pytest.raises(EmoGuardError, match="beam search has no one reading per token"):
            watch.sessions.skip(watch.sessions.open(Request()), "beam search")
        assert watch.live() is None
        assert not watch.reports
    with watched(model, Guard(probe, policy=Policy(on_unsupported="skip"))) as watch:
        session = watch.sessions.open(Request())
        watch.sessions.skip(session, "beam search")
        watch.sessions.close(session, "stop")
    assert [report.status for report in watch.reports] == ["skipped"]


def test_a_mode_that_is_not_read_is_never_steered(model, probe):
    calibration = measure_calibration(model.door, probe)
    guard = Guard(probe, [calibration], Policy(on_unsupported="skip"))
    with watched(model, guard) as watch:
        session = watch.sessions.open(Request(plan=Plan(add={"sad": 0.05})))
        with pytest.raises(EmoGuardError, match="cannot be steered"):
            watch.sessions.skip(session, "beam search")
        assert not watch.reports


def test_a_generation_that_breaks_off_is_cancelled_and_its_error_is_the_callers(model, probe):
    def broken(*_, **__):
        raise KeyboardInterrupt

    with watched(model, Guard(probe)) as watch:
        model.logits = broken
        with pytest.raises(KeyboardInterrupt):
            model.generate(PROMPT, 3)
        del model.logits
    assert [report.finish for report in watch.reports] == ["cancelled"]


def test_attach_finds_no_plugin_for_a_stand_in(model):
    with pytest.raises(EmoGuardError, match="wanted a model of"):
        emoguard.attach(model)


def test_a_live_reading_names_its_columns(model, probe):
    seen = []
    with watched(model, Guard(probe, policy=Policy(labels=("sad",)))) as watch:
        commit = watch.sessions.commit

        def commit_and_look(*arguments):
            stop = commit(*arguments)
            seen.append(watch.live())
            return stop

        watch.sessions.commit = commit_and_look
        model.generate(PROMPT, 3)
    assert [reading.labels for reading in seen] == [("sad",)] * 3
    assert [reading.rows.shape for reading in seen] == [(1, 1), (2, 1), (3, 1)]


def test_tokens_carry_their_text_for_the_caller_alone(model, probe):
    sink = ListSink()
    with Guard(probe, sinks=[sink]) as guard, watched(model, guard) as watch:
        ids = model.generate(PROMPT, 3, emoguard=Request(scores="text"))
        model.generate(PROMPT, 3, emoguard=Request(scores="tokens"))
    text, plain = watch.reports
    assert "".join(token.text for token in text.tokens) == " ".join(map(str, ids))
    assert [token.id for token in text.tokens] == ids
    assert text.wire("text")["tokens"][0]["text"] == str(ids[0])
    assert text.wire("tokens") == text.without_text().wire("tokens")
    assert {token.text for token in plain.tokens} == {None}
    assert [[token.text for token in report.tokens] for report in sink.reports] == [[None] * 3] * 2


def test_a_decoder_that_breaks_costs_the_reading_and_not_the_report(model, probe):
    with watched(model, Guard(probe)) as watch:
        watch.joint.decode = lambda _ids: 1 / 0
        model.generate(PROMPT, 3, emoguard=Request(scores="text"))
    assert watch.reports[-1].status == "error"
    assert "ZeroDivisionError" in watch.reports[-1].detail


def test_the_watch_hands_out_the_model_it_watches(model, probe):
    with watched(model, Guard(probe)) as watch:
        assert watch.enabled
        assert watch.model is model
