from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
import urllib.request
from importlib.metadata import entry_points

import prometheus_client
import pytest
from emoguard_prometheus import PrometheusExporter, serve
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

import emoguard
from emoguard import EmoGuardError, Guard, Request
from emoguard.records import STATUSES, LabelScore
from emoguard.testing import (
    FailingSink,
    FakeResiduals,
    check_sink,
    make_calibration,
    make_probe,
    make_reading,
    make_report,
)


def exporter(registry: CollectorRegistry | None = None, **options) -> PrometheusExporter:
    return PrometheusExporter(
        registry, **({"emotions": ("happy", "sad"), "model": "fake"} | options)
    )


def value(sink: PrometheusExporter, name: str, **labels: str) -> float | None:
    return sink.registry.get_sample_value(f"emoguard_{name}", labels)


def series(sink: PrometheusExporter) -> set[str]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}"
        for metric in sink.registry.collect()
        for sample in metric.samples
    }


def test_it_is_a_conforming_sink():
    check_sink(exporter)


def test_the_entry_point_names_it():
    (point,) = entry_points(group="emoguard.exporters", name="prometheus")
    assert point.load() is PrometheusExporter


def test_every_series_exists_before_the_first_report():
    sink = exporter()
    before = series(sink)
    for status in STATUSES:
        sink.report(dataclasses.replace(make_report(), status=status, faults=("reading",)))
    assert series(sink) == before
    assert value(sink, "responses_total", model="fake", status="incomplete") == 1
    assert value(sink, "label_overflow_total") == 0


def test_build_info_describes_the_process():
    sink = exporter(backend="llamacpp-native", probe="p@1234")
    assert (
        value(
            sink,
            "build_info",
            version=emoguard.__version__,
            backend="llamacpp-native",
            model="fake",
            probe="p@1234",
            policy="default",
        )
        == 1
    )


def test_a_scored_report_is_counted_once_everywhere():
    sink, report = exporter(), make_report(tokens=40, seconds=0.003)
    sink.report(report)
    assert value(sink, "responses_total", model="fake", status="scored") == 1
    assert value(sink, "response_tokens_total", model="fake") == 40
    assert value(sink, "overhead_seconds_sum") == pytest.approx(0.003)
    assert value(sink, "last_response_timestamp_seconds") == report.created
    for label, score in report.scores.items():
        assert value(sink, "response_rank_ratio_sum", model="fake", emotion=label) == pytest.approx(
            score.rank
        )


@pytest.mark.parametrize(("rank", "edge"), [(0.0, "0.1"), (0.5, "0.5"), (0.97, "0.99")])
def test_ranks_fall_into_the_first_bucket_that_holds_them(rank, edge):
    sink = exporter()
    score = LabelScore(mean=0.0, peak=None, rank=rank)
    sink.report(dataclasses.replace(make_report(), scores={"sad": score}))
    buckets = {
        sample.labels["le"]: sample.value
        for metric in sink.registry.collect()
        for sample in metric.samples
        if sample.name == "emoguard_response_rank_ratio_bucket"
        and sample.labels["emotion"] == "sad"
    }
    assert next(le for le, count in buckets.items() if count == 1) == edge


def test_reasoning_tokens_and_unscored_responses_add_no_tokens():
    sink, report = exporter(), make_report()
    phases = {"preparation": 1, "reasoning": 30, "response": 9}
    sink.report(dataclasses.replace(report, phases=phases))
    sink.report(make_report(fault="RuntimeError: broken"))
    assert value(sink, "response_tokens_total", model="fake") == 10


def test_an_uncalibrated_report_has_no_rank():
    sink = exporter()
    score = LabelScore(mean=1.0, peak=None, rank=None)
    sink.report(dataclasses.replace(make_report(), status="uncalibrated", scores={"sad": score}))
    assert value(sink, "response_rank_ratio_count", model="fake", emotion="sad") == 0


def test_faults_are_counted_by_part():
    sink = exporter(sinks=("FailingSink",))
    faults = ("reading", "sink:FailingSink", "sink:FailingSink")
    sink.report(dataclasses.replace(make_report(), faults=faults))
    assert value(sink, "errors_total", part="reading") == 1
    assert value(sink, "errors_total", part="sink:FailingSink") == 2


def test_a_failing_neighbour_reaches_the_error_counter():
    door = FakeResiduals()
    probe = make_probe(door)
    sink = exporter(sinks=("FailingSink",))
    calibrations = [make_calibration(probe, door.identity)]
    with Guard(probe, calibrations, sinks=[sink, FailingSink()]) as guard:
        for _ in range(2):
            guard.publish(guard.report(make_reading(), Request()))
            assert guard.flush()
    assert value(sink, "responses_total", model="fake", status="scored") == 2
    assert value(sink, "errors_total", part="sink:FailingSink") == 1


@given(name=st.text(max_size=60))
def test_hostile_names_add_no_series(name):
    sink = exporter()
    before = series(sink)
    report = make_report(tokens=3)
    scores = {name: LabelScore(mean=0.0, peak=None, rank=0.5)}
    sink.report(dataclasses.replace(report, model=name, status=name, faults=(name,)))
    sink.report(dataclasses.replace(report, scores=scores, probe=name, backend=name))
    assert series(sink) == before
    generate_latest(sink.registry)


def test_names_that_cannot_be_encoded_do_not_break_the_page():
    sink = exporter(emotions=("\ud800",), model="a\udfff", probe='"\ud800\n')
    sink.report(dataclasses.replace(make_report(), model="a\udfff"))
    page = generate_latest(sink.registry).decode()
    assert 'emoguard_responses_total{model="a?",status="scored"} 1.0' in page


def test_unknown_values_become_other_and_are_counted():
    sink = exporter()
    scores = {"furious": LabelScore(mean=0.0, peak=None, rank=0.5)}
    report = make_report()
    sink.report(dataclasses.replace(report, scores=scores, faults=("sink:Unheard",)))
    sink.report(dataclasses.replace(report, model="another"))
    assert value(sink, "response_rank_ratio_count", model="fake", emotion="other") == 1
    assert value(sink, "response_rank_ratio_count", model="other", emotion="other") == 2
    assert value(sink, "responses_total", model="other", status="scored") == 1
    assert value(sink, "errors_total", part="other") == 1
    assert value(sink, "label_overflow_total") == 3


def test_nothing_about_the_caller_is_exported():
    sink = exporter()
    sink.report(dataclasses.replace(make_report(), id="id-4711", conversation="with-alice"))
    text = generate_latest(sink.registry).decode()
    assert "4711" not in text
    assert "alice" not in text


def test_no_created_series_and_the_process_keeps_its_own_setting():
    registry = CollectorRegistry()
    prometheus_client.Counter("theirs_total", "Somebody else's.", registry=registry)
    sink = exporter(registry)
    names = {sample.name for metric in registry.collect() for sample in metric.samples}
    assert {name for name in names if name.endswith("_created")} == {"theirs_created"}
    assert "emoguard_responses_total" in names
    assert sink.registry is registry


def test_the_series_stay_few_for_fourteen_labels():
    sink = exporter(emotions=[f"label{n}" for n in range(14)])
    assert len(series(sink)) <= 320


def test_a_second_exporter_in_one_registry_is_refused():
    registry = CollectorRegistry()
    exporter(registry)
    with pytest.raises(ValueError, match="emoguard"):
        exporter(registry)


def test_names_and_help_follow_the_naming_rules():
    for metric in exporter().registry.collect():
        assert metric.name.startswith("emoguard_")
        assert metric.documentation.endswith(".")
        sampled = {sample.name for sample in metric.samples}
        if metric.type == "counter":
            assert sampled == {f"{metric.name}_total"}
        else:
            assert metric.name.endswith(("_ratio", "_seconds", "_info"))


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian package prometheus)")
    sink = exporter()
    sink.report(make_report())
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(sink.registry),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_metrics_are_served_on_loopback_until_closed():
    sink = exporter()
    with serve(sink, 0) as server:
        sink.report(make_report())
        with urllib.request.urlopen(server.url, timeout=5) as answer:
            body = answer.read().decode()
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        assert 'emoguard_responses_total{model="fake",status="scored"} 1.0' in body
    server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_port_in_use_is_one_sentence():
    with serve(exporter(), 0) as server, pytest.raises(EmoGuardError, match="another port"):
        serve(exporter(), server.port)
