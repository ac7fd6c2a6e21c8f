"""`emoguard baseline`: freeze a site's own traffic, which drift is then measured against."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.console import Console

from emoguard.baseline import Baseline
from emoguard.cli import logs
from emoguard.policy import Policy


@click.command(short_help="Freeze a site's traffic as baseline.")
@click.argument("paths", nargs=-1, required=True, metavar="AUDIT_LOG...")
@click.option("--out", required=True, help="The file to write (.json).")
@logs.KEY_FILE
@logs.KEY_ENV
@click.option(
    "--policy", "policy_path", help="Policy whose drift block size, and audit key, is used."
)
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Take responses from this time on (UTC), such as those after a change that is wanted.",
)
def baseline(
    *,
    paths: tuple[str, ...],
    out: str,
    key_file: str | None,
    key_env: str | None,
    policy_path: str | None,
    since: datetime | None,
) -> None:
    """Average stored reports in blocks and freeze them as the baseline for drift.

    Taken are unsteered scored responses, flagged ones included, from lines that the log's key
    vouches for: what `emoguard audit verify` finds something wrong with is left out. The key is
    that of the sink in --policy unless it is given. An AUDIT_LOG includes the files rotated away
    from it. Name the file that is written as drift.baseline in the policy; processes that run take
    it up when they are started again.
    """
    policy = Policy.load(policy_path) if policy_path else Policy()
    start = since.replace(tzinfo=UTC).timestamp() if since else 0.0
    reports = logs.Reports(paths, logs.key(key_file, key_env, policy))
    taken = (report for report in reports if report.created >= start)
    try:
        made = Baseline.learn(taken, policy.drift.block_responses)
    finally:
        reports.warn()
    made.save(out)
    Console(highlight=False).print(
        f"Wrote {out}: {len(made.blocks)} blocks of {made.block_responses} responses, "
        f"{len(made.labels)} labels.",
        markup=False,
        soft_wrap=True,
    )
