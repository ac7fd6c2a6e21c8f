"""Optional libraries: which extra of this distribution brings them, and how to install them."""

from __future__ import annotations

from importlib.metadata import requires
from importlib.util import find_spec

from emoguard.errors import EmoGuardError

EXTRAS = {
    "click": "cli",
    "rich": "cli",
    "llama_cpp": "llamacpp",
    "torch": "transformers",
    "transformers": "transformers",
    "gguf": "fit",
    "matplotlib": "fit",
    "scipy": "fit",
    "sklearn": "fit",
    "vaderSentiment": "fit",
    "prometheus_client": "prometheus",
    "fastapi": "serve",
    "pydantic_settings": "serve",
    "sse_starlette": "serve",
    "starlette": "serve",
    "starlette_context": "serve",
    "uvicorn": "serve",
}
"""Extra by library, under the name it is imported by."""


def check_installed(purpose: str, *libraries: str) -> None:
    """Refuse work that would break off after hours for want of a library.

    Raises:
        EmoGuardError: naming the library that is missing and what installs it.

    """
    for library in libraries:
        if find_spec(library) is None:
            raise EmoGuardError(f"{purpose} needs {library}: {install_command(library)}")


def install_command(library: str) -> str:
    """Return the command that installs `library` and what its extra brings with it.

    It names the libraries and not EmoGuard, which may come from a clone, a wheel or an index.
    """
    extra = EXTRAS.get(library)
    lines = [line.partition(";") for line in requires("emoguard") or ()]
    wanted = [name.strip() for name, _, marker in lines if f"extra == '{extra}'" in marker]
    return f"pip install {' '.join(repr(each) for each in wanted or [library])}"
