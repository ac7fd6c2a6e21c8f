"""`emoguard watch-page`: shows the operator's view of an audit log, without a model."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from emoguard.cli import logs
from emoguard.cli.replay import open_monitors, open_site, run
from emoguard.cli.screen import Screen
from emoguard.cli.serve import run_server
from emoguard.errors import EmoGuardError
from emoguard.hosts import is_loopback
from emoguard.policy.policy import Policy
from emoguard.records import Report

if TYPE_CHECKING:
    from emoguard_page import Traffic

SHARE = 20
"""Seconds before a log is read again, for each second that reading it took."""

LEAST_SECONDS = 2.0
"""Seconds between two looks at a log."""

MOST_ALERTS = 256


@click.command("watch-page", short_help="Show an audit log in a browser.")
@click.argument("paths", nargs=-1, required=True, metavar="AUDIT_LOG...")
@logs.KEY_FILE
@logs.KEY_ENV
@click.option("--policy", "policy_path", help="The policy of the log; default: the default one.")
@click.option("--probe", help="Probe file or shipped probe with the calibration; for rates.")
@click.option("--baseline", "baseline_path", help="Drift baseline, in place of the policy's.")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--keep",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Responses to show, from the last one back.",
)
def watch_page(
    *,
    paths: tuple[str, ...],
    key_file: str | None,
    key_env: str | None,
    policy_path: str | None,
    probe: str | None,
    baseline_path: str | None,
    host: str,
    port: int,
    keep: int,
) -> None:
    """Show AUDIT_LOG in a browser, as the operator's view of a server's page, and follow it.

    No model is needed. Only lines that pass `emoguard audit verify` are shown. The options are
    those of `emoguard replay`, whose monitors run over the whole log. The page is for this machine
    alone: it has no key of its own.
    """
    import uvicorn
    from emoguard_page import OperatorPage

    if not is_loopback(host):
        raise EmoGuardError(
            f"host {host} can be reached from other machines, and this page asks for no key: "
            "listen on 127.0.0.1, and forward the port over ssh"
        )
    policy = Policy.load(policy_path) if policy_path else Policy()
    if baseline_path:
        drift = dataclasses.replace(policy.drift, baseline=baseline_path)
        policy = dataclasses.replace(policy, drift=drift)
    log = Log(paths, logs.key(key_file, key_env, policy), policy, probe, keep)
    log.read()
    server = uvicorn.Server(
        uvicorn.Config(
            OperatorPage(log, is_open=lambda: not server.should_exit),
            host=host,
            port=port,
            lifespan="off",
            log_level="warning",
        )
    )
    Screen(stderr=True).print(
        f"page at http://{f'[{host}]' if ':' in host else host}:{port}/emoguard/ until Ctrl-C",
        markup=False,
    )
    run_server(server)


class Log:
    """An audit log as the subject of a page; all of it is read again when its files change."""

    def __init__(
        self, paths: Sequence[str], key: Any, policy: Policy, probe: str | None, keep: int
    ) -> None:
        self.traffic: Traffic | None = None
        self._paths = paths
        self._key = key
        self._policy = policy
        self._probe = probe
        self._keep = keep
        self._boot = uuid.uuid4().hex
        self._about: dict[str, Any] = {}
        self._alerts: list[dict[str, Any]] = []
        self._error: str | None = None
        self._seen: object = None
        self._next = 0.0
        self._reading = asyncio.Lock()

    def read(self) -> None:
        """Read the whole log, and run the monitors over it.

        Raises:
            EmoGuardError: there is no such log, it holds no report, or the probe has no calibration
                for its model.

        """
        from emoguard_page import Traffic, operators

        start = time.monotonic()
        stored = logs.Reports(self._paths, self._key)
        stamp = stored.stamp()
        reports = iter(stored)
        first = next(reports, None)
        if first is None:
            stored.warn()
            raise EmoGuardError(f"{', '.join(self._paths)} holds no report")
        monitors = open_monitors(self._policy, first, self._probe)
        traffic = Traffic(self._keep)
        traffic.join(monitors)
        alerts: deque[dict[str, Any]] = deque(maxlen=MOST_ALERTS)
        for report, raised in run(chain([first], reports), monitors):
            traffic.report(report)
            alerts.extend(operators.alert(each, report.created) for each in raised)
        about = self._of(first, stored.finding())
        self._about = self._about if about == self._about else about
        self._alerts = list(alerts)
        self.traffic = traffic
        self._seen = stamp  # only now: a log that could not be read is read again
        self._next = start + max(LEAST_SECONDS, SHARE * (time.monotonic() - start))

    async def refresh(self) -> None:
        """Read the log again if it has changed; an error is shown on the page."""
        async with self._reading:
            if time.monotonic() < self._next:
                return
            start = time.monotonic()
            self._next = start + LEAST_SECONDS
            try:
                await asyncio.to_thread(self._reread)
                self._error = None
            except EmoGuardError as error:
                self._error = str(error)
                self._next += SHARE * (time.monotonic() - start)

    def about(self) -> dict[str, Any]:
        """Return labels and limits, as plain JSON data."""
        return self._about

    def about_changes(self) -> object:
        """Return `about` itself: it is a new object after each change."""
        return self._about

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that the monitors raised over the log, newest last."""
        return self._alerts

    def state(self) -> dict[str, Any]:
        """Return counts, evidence and faults."""
        from emoguard_page import operators

        assert self.traffic is not None
        return operators.state(self.traffic, None) | {"log_error": self._error}

    def open_responses(self) -> list[dict[str, Any]]:
        """Return none: a log has finished responses."""
        return []

    def _reread(self) -> None:
        if logs.Reports(self._paths, self._key).stamp() != self._seen:
            self.read()

    def _of(self, first: Report, finding: str | None) -> dict[str, Any]:
        """Return the description of the log's model."""
        from emoguard_page import about

        if self._probe is None:
            about_site = about.of_report(first, self._policy)
        else:
            about_site = about.of_site(open_site(self._probe, self._policy, first))
        return about_site | {
            "model": first.model,
            "backend": first.backend,
            "cautions": [] if finding is None else [finding],
            "boot": self._boot,
            "keeps": self._keep,
            "chat": False,
        }
