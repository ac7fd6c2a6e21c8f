"""`emoguard baseline`: freezes a site's own traffic as the reference for drift."""

from __future__ import annotations

from datetime import datetime

import click

from emoguard.cli import logs
from emoguard.cli.paths import check_out
from emoguard.cli.screen import Screen
from emoguard.policy.policy import Policy
from emoguard.sinks.baseline import Baseline


@click.command(short_help="Freeze a site's traffic as baseline.")
@click.argument("paths", nargs=-1, required=True, metavar="AUDIT_LOG...")
@click.option("--out", required=True, help="The file to write (.json).")
@logs.KEY_FILE
@logs.KEY_ENV
@click.option(
    "--policy", "policy_path", help="Policy whose labels, drift numbers and audit key are used."
)
@logs.SINCE
def baseline(
    *,
    paths: tuple[str, ...],
    out: str,
    key_file: str | None,
    key_env: str | None,
    policy_path: str | None,
    since: datetime | None,
) -> None:
    """Freeze stored reports as the baseline for drift, and print the smallest shift it can detect.

    It takes unsteered scored responses, flagged ones included, from lines that pass `emoguard audit
    verify`. The key is that of the sink in --policy unless it is given. It needs 1,000 responses,
    which take 17 minutes at one a second, 17 hours at one a minute and six weeks at one an hour;
    let them cover some days, so that the baseline holds the daily cycle. An AUDIT_LOG includes the
    files rotated away from it. Name the result as drift.baseline in the policy, and restart the
    processes that use it.
    """
    check_out("--out", out)
    policy = Policy.load(policy_path) if policy_path else Policy()
    reports = logs.Reports(paths, logs.key(key_file, key_env, policy), since)
    try:
        learned = Baseline.learn(reports)
    finally:
        reports.warn()
    drift = policy.drift
    least = learned.resolution(
        policy.labels or learned.labels, drift.arl_blocks * drift.block_responses
    )
    learned.save(out)
    worst = max(least, key=least.__getitem__)
    Screen().print(
        f"Wrote {out}: {len(learned.blocks) * learned.block_responses:,} responses, "
        f"{len(learned.labels)} labels. Drift can see mean z move by {min(least.values()):.2f} or "
        f"more, {worst} by {least[worst]:.2f}; more responses make it finer.",
        markup=False,
        soft_wrap=True,
    )
