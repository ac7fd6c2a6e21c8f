"""Finds the plug-in for a model object and the shipped probe that fits it."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from emoguard import nearest
from emoguard.advice import fit_command
from emoguard.cautions import cautions
from emoguard.errors import EmoGuardError
from emoguard.extras import install_command
from emoguard.guard import Guard
from emoguard.policy.annotation import describe
from emoguard.policy.policy import Policy
from emoguard.policy.reload import PolicySource, open_policy
from emoguard.probe.shipped import shipped_files
from emoguard.runtime.disabled import DisabledWatch
from emoguard.runtime.watch import Watch
from emoguard.sinks.open import open_sinks

if TYPE_CHECKING:
    from emoguard.probe.residuals import Residuals
    from emoguard.records import Alert
    from emoguard.runtime.joint import Plugin

log = logging.getLogger("emoguard")

GROUP = "emoguard.plugins"
UNOPENED = (
    "the policy names sinks (%s), but this guard has none, so nothing reaches them: open the guard "
    "with emoguard.open_guard"
)

OF_GUARD = ("policy", "probe", "sinks", "on_alert")
"""What `open_guard` takes beside a plug-in's options."""


def attach(model: Any, guard: Guard | None = None, **options: Any) -> Watch:
    """Watch `model` with `guard`; works on a Transformers model and on a `llama_cpp.Llama`.

    Without a guard a probe shipped with EmoGuard is used, if one fits. Options go to the plug-in:
    `tokenizer` for Transformers, `backend` ("auto", "native", "callback") for llama.cpp.
    `EMOGUARD_DISABLE=1` in the environment makes this a watch that reads nothing and says so; calls
    that carry `emoguard=` still work. What makes scores doubtful is logged: a model file that the
    probe is not calibrated for, a probe of few texts.

    Raises:
        EmoGuardError: an object that is no supported model or no guard, an unknown option, a probe
            that does not fit, a second attach on one model. Nothing is left behind.

    """
    if os.environ.get("EMOGUARD_DISABLE") == "1":
        return cast("Watch", DisabledWatch(unwrap(model)))
    plugin, inner = find(model)
    _check_options(plugin.joint, inner, options, ["guard"])
    if guard is not None:
        _check_guard(guard)
        if guard.unopened:
            log.warning(UNOPENED, ", ".join(guard.unopened))
    else:
        guard = shipped(plugin.open_residuals(inner, **options))
    guard.open()
    watch = Watch(guard, plugin.joint(inner, **options))
    for caution in cautions(guard, watch.identity):
        log.warning("%s", caution)
    return watch


@contextmanager
def open_guard(
    model: Any,
    policy: PolicySource | None = None,
    probe: str | os.PathLike[str] | None = None,
    *,
    sinks: Iterable[Mapping[str, Mapping[str, Any]]] = (),
    on_alert: Callable[[Alert], None] | None = None,
    **options: Any,
) -> Iterator[Guard]:
    """Open a guard for `model` with the sinks that its policy names; close them at the end.

    `policy` is a Policy, a mapping with the keys of one, or a YAML file, which the guard then
    follows while it runs; `probe` is a probe file or the name of a shipped one, by default the
    shipped one that fits; `sinks` are further ones, written as in a policy; `on_alert` is what the
    policy's `on_alert: callback` calls. Options are those of `attach`:

        with open_guard(llm, "policy.yaml") as guard, emoguard.attach(llm, guard):
            ...

    With `EMOGUARD_DISABLE=1` nothing is read or opened, there is no guard, and `attach` wants none.

    Raises:
        EmoGuardError: a policy or probe that is not sound or does not fit, a sink that cannot be
            opened. Nothing is left open.

    """
    if os.environ.get("EMOGUARD_DISABLE") == "1":
        yield cast("Guard", None)
        return
    plugin, inner = find(model)
    _check_options(plugin.open_residuals, inner, options, OF_GUARD)
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
    found = shipped(door) if probe is None else Guard.load(probe)
    plain = Guard(found.probe, found.calibrations, opened, on_alert=on_alert)
    plain.check(plain.policy)
    further = Policy(sinks=tuple(also)).sinks
    with (
        open_sinks(plain.site(door.identity, door.backend), further) as sinks,
        Guard(found.probe, found.calibrations, opened, sinks, on_alert) as guard,
    ):
        yield guard


def _check_guard(guard: Any) -> None:
    """Raise unless this is a guard.

    Raises:
        EmoGuardError: naming what came.

    """
    if not isinstance(guard, Guard):
        raise EmoGuardError(
            f"guard: wanted a Guard, got {describe(guard)}: make one with Guard.load(probe file or "
            "name, policy) or open_guard(model, policy, probe)"
        )


def _check_options(
    function: Callable[..., Any], model: Any, options: Mapping[str, Any], also: Sequence[str] = ()
) -> None:
    """Raise if a plug-in's function does not know an option; `also` are known to its caller.

    Raises:
        EmoGuardError: naming the option, and the nearest known one or all.

    """
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.default is not parameter.empty]
    for name in options:
        if name in OF_GUARD:
            raise EmoGuardError(
                f"{name}: no option of attach: give it to open_guard, and its guard to attach"
            )
        if name not in known:
            close = nearest.near(name, (*known, *also))
            hint = f"did you mean {close}?" if close else f"known options: {', '.join(known)}"
            raise EmoGuardError(f"{name}: unknown option for a {type(model).__qualname__}; {hint}")


def find(model: Any) -> tuple[Plugin, Any]:
    """Return the plug-in for `model` and the object it wants, wrappers taken off."""
    inner = unwrap(model)
    names = {cls.__module__.partition(".")[0] for cls in type(inner).__mro__}
    known = {point.name: point for point in entry_points(group=GROUP)}
    for name in names & known.keys():
        try:
            return cast("Plugin", importlib.import_module(known[name].value)), inner
        except ModuleNotFoundError as error:
            raise EmoGuardError(
                f"watching a {name} model needs {error.name}: {install_command(str(error.name))}"
            ) from error
    raise EmoGuardError(
        f"wanted a model of {' or '.join(sorted(known))}, got {type(model).__qualname__} from "
        f"{type(model).__module__}: pass the object whose generate you call"
    )


def unwrap(model: Any) -> Any:
    """Take off `torch.compile` (`_orig_mod`) and PEFT (`get_base_model`) wrappers."""
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
        EmoGuardError: none fits.

    """
    found = shipped_files()
    for name in found:
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
        f"{', '.join(found) or 'none'}. Make one with {fit_command(model)} and give it by --probe, "
        "in Python by Guard.load"
    )
