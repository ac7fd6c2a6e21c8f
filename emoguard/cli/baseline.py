"""`emoguard baseline`: freeze a site's own traffic, which drift is then measured against."""

from __future__ import annotations

from itertools import chain

import click
from rich.console import Console

from emoguard import reportlines
from emoguard.baseline import Baseline
from emoguard.policy import Policy


@click.command(short_help="Freeze a site's traffic as baseline.")
@click.argument("logs", nargs=-1, required=True, metavar="AUDIT_LOG...")
@click.option("--out", required=True, help="The file to write (.json).")
@click.option("--policy", "policy_path", help="Policy whose drift block size is used.")
def baseline(logs: tuple[str, ...], out: str, policy_path: str | None) -> None:
    """Average stored reports in blocks and freeze them as the baseline for drift.

    Taken are unsteered scored responses, flagged ones included. Name the file as drift.baseline in
    the policy. The parts of a rotated log are given in their order, oldest first.
    """
    policy = Policy.load(policy_path) if policy_path else Policy()
    reports = chain.from_iterable(map(reportlines.read, logs))
    made = Baseline.learn(reports, policy.drift.block_responses)
    made.save(out)
    Console(highlight=False).print(
        f"Wrote {out}: {len(made.blocks)} blocks of {made.block_responses} responses, "
        f"{len(made.labels)} labels.",
        markup=False,
        soft_wrap=True,
    )
