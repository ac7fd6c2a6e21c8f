"""Puts each part of a policy into words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoguard.advice import baseline_command
from emoguard.notices.policy import NoticePolicy
from emoguard.notices.profiles import Profile
from emoguard.policy.policy import PagePolicy, Policy, RequestPolicy
from emoguard.policy.reload import FIXED
from emoguard.sinks.policy import AlarmPolicy
from emoguard.steering.plan import Plan
from emoguard.steering.policy import SteeringPolicy

ON_ALERT = {
    "report": "an alarm is reported",
    "callback": "an alarm is reported and handed to the program's on_alert, which emoguard serve "
    "does not have",
    "stop": "an alarm is reported and ends the response",
}


def meaning(policy: Policy) -> list[tuple[str, str]]:
    """Return the parts of a policy, each with its meaning in words."""
    sampled = f"{policy.sample_ratio:.6g} of all" if policy.sample_ratio < 1 else "all"
    unsupported = "refused" if policy.on_unsupported == "refuse" else "run and reported as skipped"
    return [
        (
            "labels",
            ", ".join(policy.labels) or "all of the probe are read, the usable ones watched",
        ),
        ("alarms", _alarms(policy.alarms)),
        ("drift", _drift(policy)),
        ("steering", _steering(policy.steering)),
        ("requests", _requests(policy.requests)),
        ("notices", _notices(policy.notices)),
        *((f"  {profile.name}", _profile(profile)) for profile in policy.notices.followed()),
        ("page", _page(policy.page)),
        ("on_unsupported", f"generation without one reading per token is {unsupported}"),
        (
            "sample_ratio",
            f"sinks see {sampled} plain responses, and every steered or faulty one",
        ),
        ("sinks", "; ".join(map(_sink, policy.sinks)) or "none: reports stay in this process"),
        ("keep_reports", f"the last {policy.keep_reports} reports and alerts are remembered"),
        ("restart for", f"{', '.join(FIXED)}; other changes take effect with the next response"),
    ]


def _alarms(alarms: AlarmPolicy) -> str:
    return (
        f"at most {alarms.rate_per_1000_tokens:g} crossings per 1,000 response tokens on neutral "
        f"responses, all labels together; rolling mean of {alarms.window_tokens} tokens, armed "
        f"again {alarms.hysteresis_sd:g} sd below the threshold; {ON_ALERT[alarms.on_alert]}"
    )


def _drift(policy: Policy) -> str:
    drift = policy.drift
    watched = "" if has_sink(policy, "drift") else "no sink drift, so nothing watches it; "
    return (
        f"{watched}a shift of the mean rank by more than {drift.tolerance_rank:g} is worth an "
        f"alarm; unchanged traffic alarms at most once in {drift.arl_blocks:,} blocks of "
        f"{drift.block_responses} responses on average; {_baseline(policy)}"
    )


def _baseline(policy: Policy) -> str:
    path = policy.drift.baseline
    if path is None:
        command = baseline_command(_audit_log(policy))
        return f"no baseline, so it is only learning: {command} makes one, drift.baseline names it"
    if Path(path).exists():
        return f"baseline {path}"
    command = baseline_command(_audit_log(policy), path)
    return f"no baseline {path} yet, so it is only learning: {command} makes it, then restart"


def _audit_log(policy: Policy) -> str:
    """Return the path of the policy's audit log, the source of a baseline."""
    paths = [sink["jsonl"].get("path") for sink in policy.sinks if "jsonl" in sink]
    return str(paths[0]) if paths else "AUDIT_LOG"


def has_sink(policy: Policy, name: str) -> bool:
    """Return whether the policy names a sink."""
    return any(name in sink for sink in policy.sinks)


def _steering(steering: SteeringPolicy) -> str:
    excess = "refused" if steering.on_excess == "refuse" else "clipped"
    fault = "runs unsteered" if steering.on_fault == "unsteered" else "is stopped"
    return (
        f"no token is moved by more than {steering.max_dose_ratio:.6g} of its length; "
        f"{_plan(steering.plan)}; a plan beyond the bound is {excess}; after a fault the rest of "
        f"the response {fault}; a response that a plan moved counts neither for drift nor for its "
        "baseline"
    )


def _plan(plan: Plan) -> str:
    if plan.is_empty:
        return "nothing is steered unless a request asks"
    parts = [f"{label} {dose:+g}" for label, dose in plan.add.items()]
    parts += [f"{label} capped at quantile {limit:g}" for label, limit in plan.cap.items()]
    parts += [f"{label} held above quantile {limit:g}" for label, limit in plan.floor.items()]
    parts += [f"{label} held at the neutral median" for label in plan.ablate]
    layers = ", ".join(map(str, plan.layers))
    where = f" at layers {layers}" if layers else ""
    return f"every response is steered: {', '.join(parts)}{where}"


def _requests(requests: RequestPolicy) -> str:
    wishes = {
        "send a steering plan": requests.plan,
        "ask for scores": requests.scores,
        "choose the channel of notices": requests.channel,
        "name the conversation": requests.conversation,
    }
    granted = [wish for wish, allowed in wishes.items() if allowed]
    denied = [wish for wish, allowed in wishes.items() if not allowed]
    clauses = [
        f"{word} {', '.join(some)}"
        for word, some in (("may", granted), ("may not", denied))
        if some
    ]
    return f"clients of a server {'; they '.join(clauses)}"


def _page(page: PagePolicy) -> str:
    shown = "scores while it is generated" if page.curves else "rank per label at its end"
    return f"the live page shows others a response's {shown}, never its text"


def _notices(notices: NoticePolicy) -> str:
    where = "in the field beside the answer" if notices.channel == "field" else "after its text"
    words = f"own words for {', '.join(notices.text)}" if notices.text else "shipped words"
    kept = notices.state or "this process only: after a restart every conversation is new"
    minors = "known to be minors" if notices.known_minors else "not known to be minors"
    rises = f", one in which {' or '.join(notices.amplifying)} rises" if notices.amplifying else ""
    every = ", and so does every other: the prompt sets the tone" if notices.prompted else ""
    demands = f"users are {minors}" if notices.followed() else "no profile is followed"
    return (
        f"a steered response carries one{rises}{every}; {demands}; a pause of "
        f"{notices.continuing_gap_minutes:g} minutes ends an interaction; written {where}, "
        f"{words}, locale {notices.locale}; {notices.keep_conversations:,} conversations are "
        f"remembered in {kept}"
    )


def _profile(profile: Profile) -> str:
    start = {
        "conversation": "with the first response of a conversation",
        "day": "with the first response of an interaction, once a day",
        "interaction": "with the first response of an interaction",
    }[profile.start]
    parts = [start]
    if profile.unused_days is not None:
        parts.append(f"again after {profile.unused_days:g} days without one")
    if profile.every_hours is not None:
        reminder = ", with a break suggested" if profile.break_reminder else ""
        parts.append(f"every {profile.every_hours:g} hours{reminder}")
    return f"{', '.join(parts)}; in force from {profile.in_force} ({profile.title})"


def _sink(sink: Mapping[str, Mapping[str, Any]]) -> str:
    ((name, options),) = sink.items()
    listed = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name} ({listed})" if listed else name
