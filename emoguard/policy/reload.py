"""Rereads a policy file when it changes, at the boundary of a response."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoguard.errors import EmoGuardError
from emoguard.forked import in_child
from emoguard.policy.annotation import describe
from emoguard.policy.policy import Policy
from emoguard.policy.yamlfile import check_path
from emoguard.runtime.interrupts import is_interrupt

log = logging.getLogger("emoguard")

FIXED = (
    "labels",
    "alarms.rate_per_1000_tokens",
    "alarms.window_tokens",
    "alarms.hysteresis_sd",
    "drift",
    "notices.profiles",
    "notices.strictest_of",
    "notices.state",
    "notices.keep_conversations",
    "sinks",
    "keep_reports",
)
"""Keys that cannot change under a watch: the readout, the counts behind rates and baselines, and
the open sinks were made with them. Everything else takes effect with the next response."""


@dataclass(frozen=True)
class FixedPolicy:
    """A policy made in Python, which never changes."""

    policy: Policy

    def refresh(self, accept: Callable[[Policy], None] | None = None) -> Policy:
        """Return the policy; `accept` is never needed."""
        return self.policy


class PolicyFile:
    """The last good policy of a file; `refresh` looks for a newer one.

    Two states differ in device, inode, both times (ns) or size of the resolved file, so that an
    edit in place, a file renamed over it and a swapped symbolic link, as Kubernetes does for a
    ConfigMap, are all noticed. `successful` is the outcome of the last attempt, `error` the reason
    of a failure; `loads` and `failures` count attempts. A failed one changes nothing else.
    Thread-safe.

    Raises:
        EmoGuardError: the file cannot be read or is no good policy when it is opened.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path(path)
        self._lock = threading.Lock()
        self._seen = _stamp(self.path)
        self.policy = Policy.load(self.path)
        self.loads = 1
        self.failures = 0
        self.error: str | None = None
        in_child(self._unlock)

    @property
    def successful(self) -> bool:
        """Return whether the policy in force is that of the file."""
        return self.error is None

    def refresh(self, accept: Callable[[Policy], None] | None = None) -> Policy:
        """Return the policy in force, after rereading the file if it changed.

        `accept` may refuse a new policy by raising EmoGuardError. Never raises itself, interrupts
        excepted: a policy that cannot be read or used is logged once per change, and the last good
        one stays.
        """
        if _stamp(self.path) == self._seen:
            return self.policy
        if self._lock.acquire(blocking=False):  # else another response is reading it
            try:
                self._follow(accept)
            finally:
                self._lock.release()
        return self.policy

    def _unlock(self) -> None:
        self._lock = threading.Lock()  # in a forked child the old one would never be released

    def _follow(self, accept: Callable[[Policy], None] | None) -> None:
        stamp = _stamp(self.path)  # checked again: the state seen without the lock may be old
        if stamp != self._seen:
            self._seen = stamp  # before reading: a change while reading is read again
            self._read(accept)

    def _read(self, accept: Callable[[Policy], None] | None) -> None:
        try:
            policy = Policy.load(self.path)
            check_change(self.policy, policy)
            if accept is not None:
                accept(policy)
        # No error in reading a policy may break the response at hand.
        except Exception as error:
            if is_interrupt(error):
                self._seen = None  # the file is read again with the next response
                raise
            self.failures += 1
            # Errors in the file name it already; those of a policy that does not fit this watch do
            # not.
            known = str(error).startswith(str(self.path))
            self.error = str(error) if known else f"{self.path}: {error}"
            log.error("the policy stays as it was: %s", self.error)  # noqa: TRY400  (one sentence says it)
        else:
            self.policy, self.error = policy, None
            self.loads += 1
            log.info("policy %s is in force", self.path)


PolicySource = Policy | FixedPolicy | PolicyFile | Mapping[str, Any] | str | os.PathLike[str]
"""The type of every argument called `policy`."""


def open_policy(source: PolicySource | None) -> FixedPolicy | PolicyFile:
    """Open a policy given as a policy, a mapping, the path of a YAML file or None.

    A file is followed: it is read again when it changes. None is the default policy.

    Raises:
        EmoGuardError: something else, a file that cannot be read, or no good policy.

    """
    if source is None:
        return FixedPolicy(Policy())
    if isinstance(source, PolicyFile | FixedPolicy):
        return source
    if isinstance(source, str | os.PathLike):
        return PolicyFile(source)
    if not isinstance(source, Policy | Mapping):
        raise EmoGuardError(
            "policy: wanted a Policy, a mapping or the path of a YAML file, got "
            f"{describe(source)}: Policy.load reads a file once, a path is followed"
        )
    return FixedPolicy(Policy.parse(source))


def check_change(old: Policy, new: Policy) -> None:
    """Refuse a change that a running watch cannot make.

    Raises:
        EmoGuardError: the message names the first such key.

    """
    for key in FIXED:
        before, after = _at(old, key), _at(new, key)
        if before != after:
            raise EmoGuardError(
                f"{key} cannot change under a watch ({before} to {after}): "
                "detach and attach again, or restart"
            )


def _at(policy: Policy, key: str) -> object:
    value: object = policy
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return a mark of a file's state that changes with its content; None if it does not exist."""
    try:
        stat = os.stat(path)  # noqa: PTH116  (per response, and Path.stat takes twice the time)
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size
