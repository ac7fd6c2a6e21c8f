"""Checks every runtime through a harness and the public API.

The checks raise `AssertionError` naming the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.policy import Policy
from emoguard.probe.probe import Probe
from emoguard.probe.residuals import Residuals
from emoguard.records import Alert, Report, Request
from emoguard.runtime.watch import Watch
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering.plan import Plan
from emoguard.steering.policy import SteeringPolicy
from emoguard.testing.fakes import AlarmingGuard, make_probe, measure_calibration
from emoguard.testing.sinks import FailingSink, ListSink

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Harness(Protocol):
    """The harness that a plug-in's tests provide, so that the checks can drive its runtime."""

    model: Any
    prompts: Sequence[Sequence[int]]
    """At least two prompts as token ids; those of the first differ from each other."""
    thinking: tuple[int, int]
    """Token ids of the marks around reasoning."""

    def open_residuals(self) -> Residuals:
        """Return the offline door."""
        ...

    def attach(self, guard: Guard) -> Watch:
        """Attach to `model`."""
        ...

    def generate(
        self, prompt: Sequence[int], tokens: int, request: Request | None = None
    ) -> list[int]:
        """Generate `tokens` tokens greedily without stopping at EOS, through the public API."""
        ...

    def logits(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after `prompt`, through the public API."""
        ...

    def traces(self) -> Any:
        """Return everything that attach may change (hooks, attributes, parameters), to compare."""
        ...

    def break_hook(self, watch: Watch) -> None:
        """Make the live hook of `watch` raise from now on."""
        ...

    def break_steering(self, watch: Watch) -> None:
        """Make the steering of `watch` raise from now on."""
        ...


Check = Callable[[Harness, Probe], None]


def contract_probe(harness: Harness, layers: Sequence[int] = (1, 2)) -> Probe:
    """Return the probe that the checks are run with: random directions that fit the model."""
    return make_probe(harness.open_residuals(), ("happy", "sad", "calm"), layers)


def check_generation_is_untouched(harness: Harness, probe: Probe) -> None:
    """Ids and logits are bit-identical with, and after, a watch; nothing is left behind."""
    prompt = harness.prompts[0]
    clean, ids, logits = harness.traces(), harness.generate(prompt, 8), harness.logits(prompt)
    watch = harness.attach(Guard(probe))
    assert harness.generate(prompt, 8) == ids, "ids differ under a watch"
    assert np.array_equal(harness.logits(prompt), logits), "logits differ under a watch"
    watch.detach()
    watch.detach()
    assert harness.traces() == clean, "detach left something behind"
    assert harness.generate(prompt, 8) == ids, "ids differ after detach"
    assert np.array_equal(harness.logits(prompt), logits), "logits differ after detach"


def check_law(harness: Harness, probe: Probe) -> None:
    """Every generated token has one fresh row; the request's id and detail reach the report."""
    with harness.attach(Guard(probe)) as watch:
        for prompt in harness.prompts:
            request = Request(scores="tokens")
            ids = harness.generate(prompt, 7, request)
            report = watch.reports[-1]
            assert report.id == request.id, "the request did not reach the report"
            assert report.status == "uncalibrated", f"status {report.status}: {report.detail}"
            assert report.tokens_scored == report.completion_tokens == len(ids) == 7, report
            assert [token.id for token in report.tokens] == ids, "rows belong to other tokens"
            assert watch.live() is None, "a session stayed open"


def check_rows_equal_the_offline_reading(harness: Harness, probe: Probe) -> None:
    """The t-th row is the projection of the residual that the t-th token was chosen from."""
    prompt = list(harness.prompts[0])
    with harness.attach(Guard(probe)) as watch:
        ids = harness.generate(prompt, 6, Request(scores="tokens"))
        live = np.array([token.z for token in watch.reports[-1].tokens])
    residuals = harness.open_residuals().residuals(prompt + ids[:-1], probe.layers)
    offline = probe.project(residuals)[len(prompt) - 1 :]
    spread = np.abs(offline).max()
    assert np.allclose(live, offline, atol=0.02 * spread), f"live {live} offline {offline}"


def check_second_attach_is_refused(harness: Harness, probe: Probe) -> None:
    """One watch per model; after detaching, attaching works again."""
    with harness.attach(Guard(probe)):
        _refused(lambda: harness.attach(Guard(probe)), "second attach")
    harness.attach(Guard(probe)).detach()


def check_wrong_layer_is_refused(harness: Harness, probe: Probe) -> None:
    """A probe whose witness was taken one layer off is refused and leaves nothing behind."""
    clean = harness.traces()
    door = harness.open_residuals()
    shifted = tuple(layer - 1 for layer in probe.layers)
    wrong = make_probe(door, probe.labels, shifted)
    fields = {name: getattr(probe, name) for name in probe.__dataclass_fields__}
    _refused(
        lambda: harness.attach(Guard(Probe(**(fields | {"witness": wrong.witness})))),
        "witness of another layer",
    )
    assert harness.traces() == clean, "a refused attach left something behind"


def check_faults_stay_inside(harness: Harness, probe: Probe) -> None:
    """A hook or sink that raises leaves ids unchanged and is counted."""
    prompt = harness.prompts[0]
    ids = harness.generate(prompt, 6)
    with Guard(probe, sinks=[FailingSink()]) as guard, harness.attach(guard) as watch:
        assert harness.generate(prompt, 6) == ids, "a failing sink changed the ids"
        guard.flush()
        harness.break_hook(watch)
        assert harness.generate(prompt, 6) == ids, "a failing hook changed the ids"
        report = watch.reports[-1]
        assert report.status == "error", f"wanted status error, got {report.status}"
        assert report.detail, "the fault is not in the report"
        assert set(report.faults) == {"reading", "sink:FailingSink"}, report.faults
    assert harness.generate(prompt, 6) == ids, "ids differ after a fault and detach"


def check_steering(harness: Harness, probe: Probe) -> None:
    """A plan moves every token within the bound; afterwards no trace of it is left."""
    prompt, other = harness.prompts[:2]
    plain, plain_other = harness.generate(prompt, 8), harness.generate(other, 8)
    calibration = measure_calibration(harness.open_residuals(), probe)
    policy = Policy(steering=SteeringPolicy(max_dose_ratio=0.4))
    label = probe.labels[0]
    with harness.attach(Guard(probe, [calibration], policy)) as watch:
        nothing = Request(plan=Plan(add={label: 0.0}))
        assert harness.generate(prompt, 8, nothing) == plain, "an empty plan changed the ids"
        assert watch.reports[-1].receipt is None, "an empty plan has a receipt"
        changed = 0
        for dose in (0.4, -0.4):
            plan = Plan(add={label: dose}, cap={probe.labels[1]: 0.9})
            changed += harness.generate(prompt, 8, Request(plan=plan)) != plain
            receipt = watch.reports[-1].receipt
            assert receipt is not None, "a steered response has no receipt"
            assert receipt.applied == 8, f"{receipt.applied} of 8 tokens were steered"
            assert receipt.faulted == 0, receipt
            assert 0 < (receipt.dose_median or 0) <= (receipt.dose_max or 0) <= 0.4, receipt
            assert watch.reports[-1].status == "scored", watch.reports[-1].detail
            # Positions computed under steering must not be reused by requests without it.
            assert harness.generate(prompt, 8) == plain, "steering outlived its response"
            assert watch.reports[-1].receipt is None, "an unsteered response has a receipt"
        assert changed, "steering at the bound changed no token either way"
        with watch.steering(Plan(ablate=(label,))):
            harness.generate(other, 8)
            receipt = watch.reports[-1].receipt
            assert receipt is not None, "watch.steering did not reach the response"
            assert receipt.plan == {"ablate": (label,)}, receipt.plan
            assert receipt.applied == 8, receipt
        before = len(watch.reports)
        for wrong in (Plan(add={"no such label": 0.1}), Plan(add={label: 0.41})):
            _refused(
                lambda wrong=wrong: harness.generate(prompt, 8, Request(plan=wrong)),
                f"the plan {wrong.as_dict()}",
            )
            _refused(
                lambda wrong=wrong: watch.check_plan(wrong), f"check_plan of {wrong.as_dict()}"
            )
        watch.check_plan(Plan(add={label: 0.4}))
        assert len(watch.reports) == before, "a refused plan made a report"
        assert harness.generate(other, 8) == plain_other, "ids differ after a refused plan"
    assert harness.generate(prompt, 8) == plain, "ids differ after detach"


def check_steering_faults_stay_inside(harness: Harness, probe: Probe) -> None:
    """When steering fails, the rest is not steered, or ends; both are reported and counted."""
    prompt = harness.prompts[0]
    plain = harness.generate(prompt, 6)
    calibration = measure_calibration(harness.open_residuals(), probe)
    request = Request(plan=Plan(add={probe.labels[0]: 0.1}))
    with harness.attach(Guard(probe, [calibration])) as watch:
        harness.break_steering(watch)
        assert harness.generate(prompt, 6, request) == plain, "broken steering changed the ids"
        report = watch.reports[-1]
        assert report.receipt is not None, "a broken plan has no receipt"
        assert (report.receipt.applied, report.receipt.faulted) == (0, 6), report.receipt
        assert report.faults == ("steering",), report.faults
        assert report.detail, "the fault is not in the report"
    policy = Policy(steering=SteeringPolicy(on_fault="stop"))
    with harness.attach(Guard(probe, [calibration], policy)) as watch:
        harness.break_steering(watch)
        assert harness.generate(prompt, 6, request) == plain[:1], "generation did not stop"
        assert watch.reports[-1].finish == "halted", watch.reports[-1].finish
    assert harness.generate(prompt, 6) == plain, "ids differ after a fault and detach"


def check_alarms_while_generating(harness: Harness, probe: Probe) -> None:
    """A crossing ends the response, or calls back, or is only counted, as the policy says."""
    prompt = harness.prompts[0]
    plain = harness.generate(prompt, 8)
    calibration = measure_calibration(harness.open_residuals(), probe)
    for action in ("stop", "callback", "report"):
        called: list[Alert] = []
        policy = Policy(alarms=AlarmPolicy(window_tokens=4, on_alert=action))
        with AlarmingGuard(probe, [calibration], policy, on_alert=called.append) as guard:
            with harness.attach(guard) as watch:
                request = Request()
                ids = harness.generate(prompt, 8, request)
                report = watch.reports[-1]
            guard.flush()
        wanted = plain[:4] if action == "stop" else plain
        assert ids == wanted, f"on_alert: {action} generated {ids}, wanted {wanted}"
        assert report.completion_tokens == len(wanted), report
        assert (report.finish == "halted") == (action == "stop"), report.finish
        assert (probe.labels[0] in (report.detail or "")) == (action == "stop"), report.detail
        assert report.scores[probe.labels[0]].crossings == 1, report.scores
        alerted = [(alert.label, alert.report_id) for alert in called]
        once = [] if action == "report" else [(probe.labels[0], request.id)]
        assert alerted == once, f"on_alert: {action} called back with {alerted}"
        scored = all(alert.scores.keys() == set(probe.labels) for alert in called)
        assert scored, f"on_alert: {action} called back without the scores of all labels"


def check_notices(harness: Harness, probe: Probe) -> None:
    """A notice is in the report when it is due; a server declares whether it was delivered."""
    prompt = harness.prompts[0]
    plain = harness.generate(prompt, 4)
    policy = Policy(notices=NoticePolicy(profiles=("us_ut_452",)))
    sink = ListSink()
    asking = "Are you human?"
    with Guard(probe, (), policy, [sink]) as guard, harness.attach(guard) as watch:
        wanted: list[tuple[tuple[str, ...], str | None] | None] = [
            (("start", "question"), "field"),
            (("question",), "field"),
            None,
            (("question",), None),
        ]
        for expected, user_text in zip(wanted, (asking, asking, "Hello", asking), strict=True):
            carrier: Literal["process", "server"] = "process" if expected != wanted[3] else "server"
            request = Request(conversation="c", user_text=user_text, carrier=carrier)
            assert harness.generate(prompt, 4, request) == plain, "a notice changed the ids"
            notice = watch.reports[-1].notice
            outcome = notice and (notice.reasons, notice.channel)
            assert outcome == expected, f"wanted {expected}, got {outcome}"
        guard.deliver(watch.reports[-1], "suffix")
        guard.flush()
    channels = [report.notice and report.notice.channel for report in sink.reports]
    assert channels == ["field", "field", None, "suffix"], f"sinks were told {channels}"


def check_attention_sinks(harness: Harness, probe: Probe) -> None:
    """Rows at a sink are read, marked, in no score, and never steered: one token, if repeated."""
    token, other = harness.prompts[0][-2:]
    calibration = measure_calibration(harness.open_residuals(), probe)
    plan = Plan(add={probe.labels[0]: 0.1}, cap={probe.labels[1]: 0.9})
    plain = {len(prompt): harness.generate(prompt, 6) for prompt in ([token], [token] * 3)}
    with harness.attach(Guard(probe, [calibration])) as watch:
        for prompt in ([token], [token] * 3, [token, other]):
            ids = harness.generate(prompt, 6, Request(scores="tokens"))
            report, sinks = watch.reports[-1], _sinks(prompt, ids)
            assert report.tokens_scored == report.completion_tokens == len(ids), report
            assert (report.status, report.attention_sinks) == ("scored", sinks), report
            assert [each.attention_sink for each in report.tokens] == [
                place < sinks for place in range(len(ids))
            ], report.tokens
            _check_means(report)
        for whole in (False, True):
            request = Request(plan=replace(plan, prompt=whole))
            for prompt in ([token], [token] * 3):
                first = harness.generate(prompt, 1, request)
                receipt = watch.reports[-1].receipt
                assert receipt is not None, "a steered response has no receipt"
                assert first == plain[len(prompt)][:1], "a sink was steered"
                assert (receipt.applied, receipt.faulted) == (0, 0), receipt
                ids = harness.generate(prompt, 6, request)
                receipt = watch.reports[-1].receipt
                assert receipt is not None, "a steered response has no receipt"
                assert receipt.applied == len(ids) - _sinks(prompt, ids), receipt
                assert receipt.faulted == 0, receipt
    policy = Policy(alarms=AlarmPolicy(window_tokens=2, on_alert="stop"))
    with AlarmingGuard(probe, [calibration], policy) as guard, harness.attach(guard):
        ids = harness.generate([token], 6)
        wanted = plain[1][: 2 + _sinks([token], plain[1])]
        assert ids == wanted, f"an alarm heard of a sink: generated {ids}, wanted {wanted}"


def check_reasoning(harness: Harness, probe: Probe) -> None:
    """Reasoning is opened by the prompt's end or by the model, never by text in between."""
    opening, closing = harness.thinking
    first, *rest = harness.prompts[0]
    cases = {
        "an opening mark at the end": ([first, *rest, opening], True),
        "one in the middle": ([first, opening, *rest], False),
        "one that is closed again": ([first, *rest, opening, closing], False),
    }
    with harness.attach(Guard(probe)) as watch:
        for what, (prompt, inside) in cases.items():
            ids = harness.generate(prompt, 8)
            report = watch.reports[-1]
            if opening in ids[:7] or closing in ids[:7]:
                continue  # reasoning opened and closed by the model itself is fine
            wanted = "unclosed" if inside else "marked"
            assert report.reasoning == wanted, f"{what}: {report.reasoning}"
            phases = report.phases
            wanted_phases = {"preparation": 1, "reasoning": 0, "response": 7}
            assert phases == wanted_phases, f"what no mark closes is not response: {phases}"


def _sinks(prompt: Sequence[int], ids: Sequence[int]) -> int:
    """Return how many tokens were chosen where all that came before was one token."""
    return sum(len({*prompt, *ids[:place]}) == 1 for place in range(len(ids)))


def _check_means(report: Report) -> None:
    rows = np.array([token.z for token in report.tokens if not token.attention_sink], np.float64)
    means = np.array([score.mean for score in report.scores.values()])
    wanted = rows.mean(axis=0) if len(rows) else np.array([])
    assert np.allclose(means, wanted, atol=1e-4), f"wanted means {wanted}, got {means}"


def _refused(action: Callable[[], Any], what: str) -> None:
    try:
        action()
    except EmoGuardError:
        return
    raise AssertionError(f"{what} was not refused with an EmoGuardError")


CHECKS: tuple[Check, ...] = (
    check_generation_is_untouched,
    check_law,
    check_rows_equal_the_offline_reading,
    check_second_attach_is_refused,
    check_wrong_layer_is_refused,
    check_faults_stay_inside,
    check_steering,
    check_steering_faults_stay_inside,
    check_alarms_while_generating,
    check_notices,
    check_attention_sinks,
    check_reasoning,
)
"""All checks: run each on a harness and its `contract_probe`."""
