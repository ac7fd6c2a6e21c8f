"""Finds the extra of this distribution that brings an optional library, and how to install it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import entry_points, requires
from importlib.util import find_spec

from emoguard.errors import EmoGuardError

PLUGINS = "emoguard.plugins"
"""The entry-point group of plug-ins for runtimes."""

PREFIX = "emoguard_"
"""Plug-ins are packages of this prefix; the rest is their short name, and that of their extra."""

EXTRAS = {
    "matplotlib": "fit",
    "scipy": "fit",
    "sklearn": "fit",
    "vaderSentiment": "fit",
    "fastapi": "serve",
    "openai": "serve-transformers",
    "pydantic_settings": "serve",
    "sse_starlette": "serve",
    "starlette": "serve",
    "starlette_context": "serve",
    "uvicorn": "serve",
}
"""Extra by library, where it is not the smallest that lists the library by its import name."""


def extra_of(library: str) -> str | None:
    """Return the extra that brings a library, by its import name; None if none does."""
    for point in entry_points(group=PLUGINS, name=library):
        return point.value.removeprefix(PREFIX)
    listed = list(_requirements())
    sizes = Counter(extra for _, extra in listed)
    extras = {extra for name, extra in listed if _plain(name) == _plain(library)}
    return EXTRAS.get(library) or min(extras, key=lambda each: (sizes[each], each), default=None)


def check_installed(purpose: str, *libraries: str) -> None:
    """Refuse work that would break off after hours for want of a library.

    Raises:
        EmoGuardError: the message names the missing library and the command that installs it.

    """
    for library in libraries:
        if find_spec(library) is None:
            raise EmoGuardError(f"{purpose} needs {library}: {install_command(library)}")


def install_command(library: str) -> str:
    """Return the command that installs `library` and the other libraries of its extra.

    It names the libraries and not EmoGuard, which may come from a clone, a wheel or an index.
    """
    extra = extra_of(library)
    wanted = [name for name, each in _requirements() if each == extra]
    return f"pip install {' '.join(repr(each) for each in wanted or [library])}"


def _requirements() -> Iterator[tuple[str, str]]:
    """Yield what each extra of this distribution requires, and the name of the extra."""
    for line in requires("emoguard") or ():
        name, _, marker = line.partition(";")
        if extra := re.search(r"extra == '([^']+)'|extra == \"([^\"]+)\"", marker):
            yield name.strip(), extra[1] or extra[2]


def _plain(name: str) -> str:
    """Return a name without extras and version, normalised for comparison."""
    return re.sub(r"[-_.]+", "_", re.split(r"[\[ <>=!~(]", name)[0]).lower()
