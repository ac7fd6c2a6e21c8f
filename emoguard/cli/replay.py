"""`emoguard replay`: runs monitors over stored reports and prints their alerts."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain

import click
from rich.text import Text

from emoguard.advice import baseline_command
from emoguard.cli import logs
from emoguard.cli.probes import open_probe
from emoguard.cli.screen import Screen
from emoguard.errors import EmoGuardError
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.records import Alert, Report
from emoguard.reporttable import printable
from emoguard.sinks.baseline import Baseline
from emoguard.sinks.open import sink_points
from emoguard.sinks.protocols import Sink
from emoguard.site import Site

MONITORS = ("rate", "drift")

RECENT = 50
"""Number of responses before an alert that are searched for its cause."""

NAMED = 3
"""Number of these responses that are named."""


@click.command(short_help="Show what would have alarmed.")
@click.argument("paths", nargs=-1, required=True, metavar="AUDIT_LOG...")
@logs.KEY_FILE
@logs.KEY_ENV
@click.option("--policy", "policy_path", help="Policy to try; default: the default one.")
@click.option("--probe", help="Probe file or shipped probe with the calibration; needed for rates.")
@click.option("--baseline", "baseline_path", help="Baseline to try, in place of the policy's.")
@logs.SINCE
def replay(
    *,
    paths: tuple[str, ...],
    key_file: str | None,
    key_env: str | None,
    policy_path: str | None,
    probe: str | None,
    baseline_path: str | None,
    since: datetime | None,
) -> None:
    """Run the monitors of rates and drift over stored reports and print their alerts.

    Rates need the crossings in the reports and the certified thresholds of --probe; drift needs a
    baseline. Only lines that pass `emoguard audit verify` are read. The key is that of the sink in
    --policy unless it is given. An AUDIT_LOG includes the files rotated away from it.

    Each alert is followed by the answers before it that lie furthest from the others. The last line
    gives the share of answers with a crossing: those that a judge would have to read.
    """
    policy = Policy.load(policy_path) if policy_path else Policy()
    if baseline_path:
        drift = dataclasses.replace(policy.drift, baseline=baseline_path)
        policy = dataclasses.replace(policy, drift=drift)
    stored = logs.Reports(paths, logs.key(key_file, key_env, policy), since)
    reports = iter(stored)
    first = next(reports, None)
    if first is None:
        stored.warn()
        when = f" since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
        raise EmoGuardError(f"{', '.join(paths)} holds no report{when}")
    monitors = open_monitors(policy, first, probe)
    console, counted, behind = Screen(), Counter[str](), Behind()
    for report, raised in run(chain([first], reports), monitors):
        counted["reports"] += 1
        counted["thresholds"] += any(s.crossings is not None for s in report.scores.values())
        counted["crossed"] += any(score.crossings for score in report.scores.values())
        behind.take(report)
        for alert in raised:
            counted[alert.monitor] += 1
            console.print(Text(alert_line(report, alert)), soft_wrap=True)
            console.print(Text(printable(f"  behind it: {behind.named(alert)}")), soft_wrap=True)
    alerts = ", ".join(f"{counted[name]} of {name}" for name in MONITORS)
    console.print(f"{counted['reports']:,} reports, alerts: {alerts}.")
    console.print(reading_cost(counted), soft_wrap=True)
    if policy.drift.baseline is None:
        command = baseline_command(paths[0])
        console.print(
            f"Drift had no baseline: make one with {command} and give it by --baseline.",
            soft_wrap=True,
        )
    if probe is None:
        console.print("Rates had no thresholds: name the calibrated file with --probe.")
    stored.warn()


def open_monitors(policy: Policy, first: Report, probe: str | None) -> list[Sink]:
    """Return the monitors of rates and drift for the model of a log's first report.

    Raises:
        EmoGuardError: the probe has no calibration for it, or the baseline is of another model or
            probe.

    """
    points, drift = sink_points(), policy.drift
    site = None if probe is None else open_site(probe, policy, first)
    verdicts = {label: score.verdict for label, score in first.scores.items()}
    labels = policy.monitored(verdicts) if site is None else site.labels
    baseline = None if drift.baseline is None else Baseline.load(drift.baseline)
    if baseline is not None:
        baseline.check_fits(first.identity, first.probe)
    return [
        points["rate"].load()(
            {} if site is None else _rates(site),
            window_tokens=policy.alarms.window_tokens,
            identity=first.identity,
        ),
        points["drift"].load()(
            baseline,
            labels,
            tolerance_rank=drift.tolerance_rank,
            arl_blocks=drift.arl_blocks,
            block_responses=drift.block_responses,
        ),
    ]


def run(
    reports: Iterator[Report], monitors: Sequence[Sink]
) -> Iterator[tuple[Report, list[Alert]]]:
    """Yield each report with the alerts that it raised."""
    for report in reports:
        yield report, [alert for monitor in monitors for alert in monitor.report(report)]


class Behind:
    """Keeps the latest responses, and finds those that explain an alert."""

    def __init__(self) -> None:
        self._recent: deque[Report] = deque(maxlen=RECENT)
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts = Counter[str]()

    def take(self, report: Report) -> None:
        """Add a report."""
        self._recent.append(report)
        for label, score in report.scores.items():
            self._sums[label] += score.mean
            self._counts[label] += 1

    def named(self, alert: Alert) -> str:
        """Return the ids and mean z of the responses that lie furthest in the label's direction.

        Recent responses are compared with all so far.
        """
        label = alert.label
        scored = [(r.scores[label].mean, r.id) for r in self._recent if label in r.scores]
        lately = sum(mean for mean, _ in scored) / len(scored)
        upwards = lately >= self._sums[label] / self._counts[label]
        furthest = sorted(scored, reverse=upwards)[:NAMED]
        return ", ".join(f"{name} ({mean:.2f})" for mean, name in furthest)


def reading_cost(counted: Counter[str]) -> str:
    """Return a sentence on the share of answers that a judge of single answers would read."""
    if not counted["thresholds"]:
        return "No threshold was certified for these answers: none would have gone to a judge."
    share = counted["crossed"] / counted["reports"]
    return (
        f"{counted['crossed']:,} answers crossed a threshold ({100 * share:.2g} %): a judge that "
        "is asked only then reads so many."
    )


def alert_line(report: Report, alert: Alert) -> str:
    """Return one line about an alert."""
    when = datetime.fromtimestamp(report.created, UTC).strftime("%Y-%m-%d %H:%M:%S")
    line = f"{when}  {alert.severity}  {alert.monitor}  {alert.label}  {alert.message}"
    return printable(f"{line}  ({alert.report_id})")


def open_site(probe: str, policy: Policy, first: Report) -> Site:
    """Return the guard of a probe file on the model that made this report.

    Raises:
        EmoGuardError: the probe has no calibration for this model.

    """
    guard = Guard(*open_probe(probe)[:2], policy)
    for calibration in guard.calibrations:
        if calibration.identity.digest == first.identity:
            return guard.site(calibration.identity)
    raise EmoGuardError(
        f"{guard.probe.name} has no calibration for the model of this log ({first.model}, "
        f"{first.identity}): give the probe file that was used"
    )


def _rates(site: Site) -> dict[str, float]:
    """Return the certified rates of a model by label."""
    return {label: each.bound for label, each in site.thresholds.items() if each is not None}
