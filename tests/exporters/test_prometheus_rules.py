"""Rules, dashboard and runbook: promtool accepts them, they fit each other and the metrics."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from emoguard_prometheus import PrometheusExporter, alerting, dashboard
from emoguard_prometheus.alerting import KINDS, RuleOptions
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from emoguard import EmoGuardError
from emoguard.cli.verbs import verbs
from emoguard.testing import every_kind_of_report
from tests.support import binaries

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "exporters" / "emoguard_prometheus"
ALERTS = {
    "EmoGuardCrossingRateHigh",
    "EmoGuardRateExceeded",
    "EmoGuardDriftDetected",
    "EmoGuardSteeringFault",
    "EmoGuardIncompleteResponses",
    "EmoGuardErrors",
    "EmoGuardStalled",
    "EmoGuardBaselineStale",
    "EmoGuardPolicyReloadFailed",
    "EmoGuardNoticeOverdue",
    "EmoGuardTargetDown",
    "EmoGuardWatchdog",
}
SHORT = RuleOptions(
    selector='job="other",env=~"a|b"',
    short_window="10s",
    long_window="30s",
    slow_short_window="20s",
    slow_long_window="2m",
    fast_burn=2.5,
    hold="1s",
    runbook_url="https://wiki.example/emoguard",
)


def rules_of(text: str) -> list[dict]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts() -> list[dict]:
    return [rule for rule in rules_of(alerting.render()) if "alert" in rule]


def run_promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [binaries.promtool(), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_verb(*arguments: str) -> str:
    done = CliRunner().invoke(verbs, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_rules_are_the_default_rendering(kind):
    shipped = (SHIPPED / "rules" / f"{kind}.yml").read_text(encoding="utf-8")
    assert shipped == alerting.render(kinds=[kind]) == run_verb("rules", f"--{kind}")


@pytest.mark.parametrize("options", [RuleOptions(), SHORT], ids=["default", "short"])
def test_promtool_finds_nothing_to_say_about_the_rules(options, tmp_path):
    path = tmp_path / "rules.yml"
    path.write_text(alerting.render(options))
    run_promtool("check", "rules", "--lint=all", "--lint-fatal", path)


def test_the_unit_tests_of_the_rules_pass():
    run_promtool("test", "rules", SHIPPED / "rules" / "tests.yml")


def test_every_alert_has_a_unit_test_that_fires_and_one_that_is_silent():
    groups = yaml.safe_load((SHIPPED / "rules" / "tests.yml").read_text())["tests"]
    fires, silent = set(), set()
    for group in groups:
        for case in group["alert_rule_test"]:
            (fires if case["exp_alerts"] else silent).add(case["alertname"])
            assert group["name"].startswith(case["alertname"])
    assert fires == silent == ALERTS


def test_the_alerts_are_those_of_the_documentation_and_are_complete():
    assert {rule["alert"] for rule in alerts()} == ALERTS
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"emoguard runbook {rule['alert'].lower()}"


def test_the_command_in_an_alert_prints_its_section_and_a_link_leads_to_it():
    linked = alerting.render(RuleOptions(runbook_url="https://wiki.example/run"), ["alerts"])
    links = [rule["annotations"]["runbook_url"] for rule in rules_of(linked)]
    for rule, link in zip(alerts(), links, strict=True):
        text = run_verb(*rule["annotations"]["runbook"].split()[1:])
        assert text.startswith(f"## {rule['alert']}\n")
        assert text.count("\n## ") == 0
        assert "**First look.**" in text
        assert link == f"https://wiki.example/run#{rule['alert'].lower()}"
    assert run_verb("runbook") == (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def test_every_alert_has_its_section_in_the_runbook():
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == ALERTS
    for section in sections.values():
        for part in ("What it means.", "First look.", "Wrongly tuned?"):
            assert f"**{part}**" in section
    options = set(re.findall(r"--([a-z-]+)", text)) - {"model", "since", "out", "key-file"}
    assert options <= {name.replace("_", "-") for name in RuleOptions.__dataclass_fields__}


def test_recording_rules_are_named_by_level_metric_and_operation():
    for rule in rules_of(alerting.render(kinds=["recording"])):
        assert re.fullmatch(r"model_emotion:emoguard_\w+:(ratio_rate|increase)\w*", rule["record"])
        assert "by (model, emotion)" in rule["expr"]


def test_options_reach_the_rules():
    text = alerting.render(SHORT)
    assert 'emoguard_crossings_total{job="other",env=~"a|b"}[10s]' in text
    assert "ratio_rate10s > 2.5" in text
    assert "https://wiki.example/emoguard#emoguarderrors" in text
    assert 'job="emoguard"' not in text
    assert "@{" not in text


def test_the_command_takes_an_option_for_each_field():
    chosen = {"--short-window": "10s", "--fast-burn": "2.5", "--selector": 'job="x"'}
    text = run_verb("rules", *[part for pair in chosen.items() for part in pair])
    options = RuleOptions(selector='job="x"', short_window="10s", fast_burn=2.5)
    assert text == alerting.render(options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("short_window", "5 m"),
        ("short_window", "0m"),
        ("short_window", "1h"),
        ("hold", "-1m"),
        ("stalled_after", "1h30m"),
        ("selector", ""),
        ("selector", 'job="a"}'),
        ("selector", 'job="a\n"'),
        ("selector", 'job="a\u2028"'),
        ("selector", '1job="a"'),
        ("fast_burn", 0.0),
        ("fast_burn", math.nan),
        ("fast_crossings", -1),
        ("runbook_url", "a b"),
    ],
)
def test_options_that_no_rule_can_be_rendered_with_are_refused(option, value):
    with pytest.raises(EmoGuardError):
        RuleOptions(**{option: value})


@given(
    selector=st.text(max_size=30) | st.text(max_size=12).map('job="{}"'.format),
    window=st.text(max_size=6),
)
@example(selector='job="a: b # c"', window="7m")
def test_all_accepted_options_render_to_the_same_rules(selector, window):
    try:
        options = RuleOptions(selector=selector, short_window=window)
    except EmoGuardError:
        return
    names = [rule.get("alert") for rule in rules_of(alerting.render(options))]
    assert names == [rule.get("alert") for rule in rules_of(alerting.render())]


@pytest.mark.parametrize(
    ("crossings", "burn"),
    [
        (RuleOptions.fast_crossings, RuleOptions.fast_burn),
        (RuleOptions.slow_crossings, RuleOptions.slow_burn),
    ],
)
def test_the_minimum_counts_are_rarely_reached_by_chance(crossings, burn):
    expected = crossings / burn
    below = sum(expected**k * math.exp(-expected) / math.factorial(k) for k in range(crossings))
    assert 1 - below < 1 / 40_000


def live_metrics() -> set[str]:
    """Return the names in `/metrics` of an exporter that saw reports."""
    sink = PrometheusExporter(emotions=("happy", "sad"), model="fake")
    for report in every_kind_of_report():
        sink.report(report)
    page = generate_latest(sink.registry).decode()
    return set(re.findall(r"^(emoguard_\w+)", page, re.MULTILINE))


def queries() -> list[str]:
    """Return every expression of the dashboard, Grafana's variables filled in."""
    board = json.loads(dashboard.read())
    results = [t["expr"] for panel in board["panels"] for t in panel.get("targets", [])]
    results += [entry["expr"] for entry in board["annotations"]["list"]]
    for name in ("job", "instance", "model", "emotion"):
        results = [query.replace(f"${name}", ".*") for query in results]
    return [query.replace("$__rate_interval", "5m") for query in results]


def test_every_metric_of_the_rules_is_exported():
    text = alerting.render()
    recorded = {rule["record"] for rule in rules_of(text) if "record" in rule}
    for name in recorded:
        text = text.replace(name, "")
    used = set(re.findall(r"\bemoguard_\w+", text))
    assert used
    assert used <= live_metrics()


def test_every_metric_of_the_dashboard_is_exported_and_every_exported_one_is_shown():
    used = {name for query in queries() for name in re.findall(r"\bemoguard_\w+", query)}
    variables = [v["definition"] for v in json.loads(dashboard.read())["templating"]["list"][1:]]
    used |= {name for query in variables for name in re.findall(r"\bemoguard_\w+", query)}
    exported = live_metrics()
    assert used <= exported
    bare = re.compile("_(bucket|sum|count)$")
    assert {bare.sub("", name) for name in exported} == {bare.sub("", name) for name in used}


def test_every_expression_of_the_dashboard_parses(tmp_path):
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries())]
    assert not [rule for rule in rules if "$" in rule["expr"]]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run_promtool("check", "rules", "--lint=all", "--lint-fatal", path)


def test_the_dashboard_has_the_form_that_grafana_10_imports():
    board = json.loads(run_verb("dashboard"))
    assert board["schemaVersion"] == 38
    assert board["uid"] == "emoguard"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in covered(panel["gridPos"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == "${datasource}"


def test_every_query_of_the_dashboard_is_of_the_chosen_instances():
    board = json.loads(dashboard.read())
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "model", "emotion"]
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            assert target["expr"].count("{") == target["expr"].count('instance=~"$instance"')


def test_output_for_programs_is_the_same_on_every_terminal():
    assert dashboard.read().isascii()
    assert alerting.render().isascii()


def covered(place: dict[str, int]) -> list[tuple[int, int]]:
    return [
        (place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])
    ]


def test_every_option_has_help():
    for option in dataclasses.fields(RuleOptions):
        assert option.metadata["help"].endswith(".")
