"""Finds the plug-in for a model object and the shipped probe that fits it."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Unpack, cast

from emoguard import nearest
from emoguard.advice import fit_command
from emoguard.cautions import cautions
from emoguard.errors import EmoGuardError
from emoguard.extras import PLUGINS, install_command
from emoguard.guard import Guard
from emoguard.policy.annotation import describe
from emoguard.policy.policy import Policy
from emoguard.policy.reload import PolicySource, open_policy
from emoguard.probe.shipped import shipped_files
from emoguard.runtime.disabled import DisabledGuard, DisabledWatch, is_disabled
from emoguard.runtime.watch import Watch
from emoguard.runtime.watched import Options
from emoguard.sinks.open import open_sinks

if TYPE_CHECKING:
    import os

    from emoguard.probe.residuals import Residuals
    from emoguard.records import Alert
    from emoguard.runtime.joint import Plugin

log = logging.getLogger("emoguard")

UNOPENED = (
    "the policy names sinks (%s), but this guard has none, so nothing reaches them: open the guard "
    "with emoguard.open_guard, or use emoguard.watch"
)

OF_GUARD = ("policy", "probe", "sinks", "on_alert")
"""The arguments of `open_guard` beside a plug-in's options."""


def attach(model: Any, guard: Guard | None = None, **options: Unpack[Options]) -> Watch:
    """Watch `model`, an object of a runtime that has a plug-in, with `guard`.

    Without a guard, a probe shipped with EmoGuard is used if one fits. Options go to the plug-in;
    its function `joint` describes them (`tokenizer`, `backend`). With `EMOGUARD_DISABLE=1` in the
    environment the watch reads nothing, and logs that; calls with `emoguard=` still work. Reasons
    to doubt the scores are logged: a model file that the probe is not calibrated for, a probe of
    few texts.

    Raises:
        EmoGuardError: the model is not supported, the guard is not one, an option is unknown, the
            probe does not fit, or the model is already watched. Nothing is left behind.

    """
    if is_disabled():
        return DisabledWatch(unwrap(model))
    plugin, inner = find(model)
    check_options(plugin.joint, inner, options, ["guard"])
    if guard is not None:
        _check_guard(guard)
        if guard.unopened:
            log.warning(UNOPENED, ", ".join(guard.unopened))
    else:
        guard = own_guard(plugin, inner, options)
        if guard is None:
            with naming_what_is_missing(inner):
                door = plugin.open_residuals(inner, **options)
            guard = shipped(door)
    guard.open()
    with naming_what_is_missing(inner):
        joint = plugin.joint(inner, **options)
    watch = Watch(guard, joint)
    for caution in cautions(guard, watch.identity):
        log.warning("%s", caution)
    return watch


def own_guard(plugin: Plugin, inner: Any, options: Mapping[str, Any]) -> Guard | None:
    """Return the guard that a model was started with, if its plug-in knows one."""
    own: Callable[..., Guard | None] | None = getattr(plugin, "own_guard", None)
    guard = None if own is None else own(inner, **options)
    if guard is not None and guard.unopened:
        log.warning(UNOPENED, ", ".join(guard.unopened))
    return guard


@contextmanager
def watch(
    model: Any,
    policy: PolicySource | None = None,
    probe: str | os.PathLike[str] | None = None,
    *,
    sinks: Iterable[Mapping[str, Mapping[str, Any]]] = (),
    on_alert: Callable[[Alert], None] | None = None,
    **options: Unpack[Options],
) -> Iterator[Watch]:
    """Watch `model` in this block, under a policy and with its sinks.

    At the end the model is detached, and the sinks have seen every report and are closed. The
    arguments are those of `open_guard`, the options those of `attach`:

        with emoguard.watch(model, policy="policy.yaml", probe="smollm2-135m-instruct") as watch:
            ...
            print(watch.reports[-1])

    Raises:
        EmoGuardError: as `open_guard` and `attach`. Nothing is left open or attached.

    """
    with (
        open_guard(model, policy, probe, sinks=sinks, on_alert=on_alert, **options) as guard,
        attach(model, guard, **options) as attached,
    ):
        yield attached


@contextmanager
def open_guard(
    model: Any,
    policy: PolicySource | None = None,
    probe: str | os.PathLike[str] | None = None,
    *,
    sinks: Iterable[Mapping[str, Mapping[str, Any]]] = (),
    on_alert: Callable[[Alert], None] | None = None,
    **options: Unpack[Options],
) -> Iterator[Guard]:
    """Open a guard for `model` with the sinks of its policy; close them at the end.

    `policy` is a Policy, a mapping with the keys of one, or a YAML file, which the guard then
    follows while it runs; `probe` is a probe file or the name of a shipped one, by default the
    shipped one that fits; `sinks` are further ones, written as in a policy; `on_alert` is the
    function to call under the policy's `on_alert: callback`. Options are those of `attach`. For one
    model, `watch` both opens the guard and attaches; one guard may watch several models.

    With `EMOGUARD_DISABLE=1` nothing is read or opened, and the guard does nothing.

    Raises:
        EmoGuardError: the policy or probe is malformed or does not fit, or a sink cannot be opened.
            Nothing is left open.

    """
    if is_disabled():
        yield DisabledGuard()
        return
    plugin, inner = find(model)
    check_options(plugin.open_residuals, inner, options, OF_GUARD)
    with naming_what_is_missing(inner):
        door = plugin.open_residuals(inner, **options)
    with _opened(door, policy, probe, sinks, on_alert) as guard:
        yield guard


@contextmanager
def _opened(
    door: Residuals,
    policy: PolicySource | None,
    probe: str | os.PathLike[str] | None,
    also: Iterable[Mapping[str, Mapping[str, Any]]],
    on_alert: Callable[[Alert], None] | None,
) -> Iterator[Guard]:
    opened = open_policy(policy)
    chosen = shipped(door) if probe is None else Guard.load(probe)
    plain = Guard(chosen.probe, chosen.calibrations, opened, on_alert=on_alert)
    plain.check(plain.policy)
    further = Policy(sinks=tuple(also)).sinks
    with (
        open_sinks(plain.site(door.identity, door.backend), further) as sinks,
        Guard(chosen.probe, chosen.calibrations, opened, sinks, on_alert) as guard,
    ):
        yield guard


def _check_guard(guard: Any) -> None:
    """Raise unless this is a guard.

    Raises:
        EmoGuardError: the message names the argument's type.

    """
    if not isinstance(guard, Guard):
        raise EmoGuardError(
            f"guard: wanted a Guard, got {describe(guard)}: make one with Guard.load(probe file or "
            "name, policy) or open_guard(model, policy, probe)"
        )


def check_options(
    function: Callable[..., Any], model: Any, options: Options, also: Sequence[str] = ()
) -> None:
    """Raise if a plug-in's function does not know an option; `also` are known to its caller.

    Raises:
        EmoGuardError: the message names the option, and the nearest known one or all.

    """
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.default is not parameter.empty]
    for name in options:
        if name in OF_GUARD:
            raise EmoGuardError(
                f"{name}: no option of attach: give it to emoguard.watch, or to open_guard and its "
                "guard to attach"
            )
        if name not in known:
            close = nearest.near(name, (*known, *also))
            hint = f"did you mean {close}?" if close else f"known options: {', '.join(known)}"
            raise EmoGuardError(f"{name}: unknown option for a {type(model).__qualname__}; {hint}")


def find(model: Any) -> tuple[Plugin, Any]:
    """Return the plug-in for `model`, and the model without wrappers."""
    inner = unwrap(model)
    names = {cls.__module__.partition(".")[0] for cls in type(inner).__mro__}
    known = {point.name: point for point in entry_points(group=PLUGINS)}
    for name in names & known.keys():
        return cast("Plugin", importlib.import_module(known[name].value)), inner
    raise EmoGuardError(
        f"wanted a model of {' or '.join(sorted(known))}, got {type(model).__qualname__} from "
        f"{type(model).__module__}: pass the object whose generate you call"
    )


@contextmanager
def naming_what_is_missing(model: Any) -> Iterator[None]:
    """Turn a plug-in's missing library into an EmoGuardError with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        runtime = type(model).__module__.partition(".")[0]
        raise EmoGuardError(
            f"watching a {runtime} model needs {error.name}: {install_command(str(error.name))}"
        ) from error


def unwrap(model: Any) -> Any:
    """Remove `torch.compile` (`_orig_mod`) and PEFT (`get_base_model`) wrappers."""
    while True:
        inner = (
            vars(model).get("_modules", {}).get("_orig_mod") if hasattr(model, "__dict__") else None
        )
        if inner is None and type(model).__module__.startswith("peft."):
            inner = model.get_base_model()
        if inner is None or inner is model:
            return model
        model = inner


def shipped(door: Residuals, model: str = "MODEL") -> Guard:
    """Return a guard with the shipped probe that fits the model behind `door`.

    A probe fits when sizes agree and the witness finds every layer where it was fitted. `model` is
    the path of the model, for the command in the error.

    Raises:
        EmoGuardError: no shipped probe fits.

    """
    files = shipped_files()
    for name in files:
        guard = Guard.load(name)
        probe, identity = guard.probe, door.identity
        if (probe.hidden, probe.model_layers) != (identity.hidden, identity.layers):
            continue
        try:
            probe.witness.check(door, probe.layers)
        except EmoGuardError:
            continue
        return guard
    raise EmoGuardError(
        f"no shipped probe fits {door.identity.name} ({door.identity.architecture}, "
        f"{door.identity.layers} layers of width {door.identity.hidden}); shipped: "
        f"{', '.join(files) or 'none'}. Make one with {fit_command(model)} and give it by --probe, "
        "in Python by Guard.load"
    )
