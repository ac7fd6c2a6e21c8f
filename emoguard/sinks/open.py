"""Opens the monitors and exporters that a policy names, found by entry point."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from emoguard import nearest
from emoguard.errors import EmoGuardError
from emoguard.extras import install_command
from emoguard.policy import schema

if TYPE_CHECKING:
    from emoguard.policy.policy import Policy
    from emoguard.sinks.protocols import Sink, SinkFactory
    from emoguard.site import Site

log = logging.getLogger("emoguard")

GROUPS = ("emoguard.monitors", "emoguard.exporters")


@contextmanager
def open_sinks(
    site: Site, also: Iterable[Mapping[str, Mapping[str, Any]]] = ()
) -> Iterator[tuple[Sink, ...]]:
    """Open the sinks of the site's policy, in order; close those that can be closed at the end.

    A sink that fails to close is logged.

    `also` are further ones, written as in a policy.

    A class named by an entry point of `emoguard.monitors` or `emoguard.exporters` has a class
    method `from_policy(site, *, option=default, …)`, whose annotations are the types of the
    options.

    Raises:
        EmoGuardError: an unknown name or option, an option of the wrong type, or a refusal of the
            sink itself. Sinks opened before it are closed.

    """
    opened: list[Sink] = []
    with ExitStack() as stack:
        for key, name, options in (*_named(site.policy.sinks, "sinks."), *_named(also)):
            factory = _factory(key, name)
            taken = checked_options(key, factory.from_policy, options)
            try:
                sink = factory.from_policy(site, **taken)
            except EmoGuardError as error:
                raise EmoGuardError(f"{key}: {error}") from error
            close = getattr(sink, "close", None)
            if close is not None:
                stack.callback(_close, key, close, os.getpid())
            opened.append(sink)
        for sink in opened:
            join = getattr(sink, "join", None)
            if join is not None:
                join(opened)
        yield tuple(opened)


def _close(key: str, close: Callable[[], None], owner: int) -> None:
    """Close a sink: its errors are only logged, and a forked child does not close the parent's."""
    if os.getpid() != owner:
        return
    try:
        close()
    except Exception as error:  # noqa: BLE001  (whatever a sink does stays with it)
        log.error("%s could not be closed, what it took last may be lost: %r", key, error)  # noqa: TRY400


def check_sinks(policy: Policy) -> None:
    """Check names and options of a policy's sinks without opening any.

    Raises:
        EmoGuardError: an unknown name or option, or an option of the wrong type.

    """
    for key, name, options in _named(policy.sinks, "sinks."):
        checked_options(key, _factory(key, name).from_policy, options)


def check_places(policy: Policy) -> list[str]:
    """Return the reasons why sinks of a policy could not be opened on this machine; opens none.

    Checks sinks with a class method `check_policy`, which takes the options of `from_policy`.
    """
    problems = []
    for key, name, options in _named(policy.sinks, "sinks."):
        factory = _factory(key, name)
        check = getattr(factory, "check_policy", None)
        if check is not None:
            try:
                check(**checked_options(key, factory.from_policy, options))
            except EmoGuardError as error:
                problems.append(f"{key}: {error}")
    return problems


def sink_points() -> dict[str, EntryPoint]:
    """Return the entry points of all sinks that are installed, by name."""
    return {point.name: point for group in GROUPS for point in entry_points(group=group)}


def _named(
    entries: Iterable[Mapping[str, Mapping[str, Any]]], section: str = ""
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (key, name, options) of sinks; in a policy's `section` a key has their number, too."""
    for index, entry in enumerate(entries):
        ((name, options),) = entry.items()
        yield f"{section and f'{section}{index}.'}{name:.60}", name, options


def _factory(key: str, name: str) -> SinkFactory:
    known = sink_points()
    if name not in known:
        hint = nearest.hint(name, sorted(known), "sinks")
        raise EmoGuardError(f"{key}: unknown; {hint}")
    try:
        factory: SinkFactory = known[name].load()
    except ModuleNotFoundError as error:
        raise EmoGuardError(
            f"{key} needs {error.name}: {install_command(str(error.name))}"
        ) from error
    if not hasattr(factory, "from_policy"):
        raise EmoGuardError(f"{key} cannot be opened from a policy: pass it to Guard(sinks=)")
    return factory


def checked_options(key: str, opens: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as the keyword-only parameters of `opens` want them; `key` is their place."""
    parameters = inspect.signature(opens).parameters.values()
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    hints = _hints(opens, known)
    for name in options:
        if name not in known:
            raise EmoGuardError(
                f"{key}.{name:.60}: unknown; {nearest.hint(name, known, 'options')}"
            )
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise EmoGuardError(f"{key}.{name}: wanted, got nothing: write {name}: …")
    return {
        name: schema.option(hints[name], each, f"{key}.{name}") for name, each in options.items()
    }


def _hints(opens: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the annotations of some parameters; others may name what only type checkers import."""
    signature = inspect.signature(opens).parameters
    some = SimpleNamespace(__annotations__={name: signature[name].annotation for name in names})
    return get_type_hints(
        some, globalns=getattr(opens, "__func__", opens).__globals__, include_extras=True
    )
