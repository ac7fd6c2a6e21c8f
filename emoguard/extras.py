"""Optional libraries: which extra of this distribution brings them, and how to install them."""

from __future__ import annotations

from importlib.metadata import requires

EXTRAS = {
    "click": "cli",
    "rich": "cli",
    "llama_cpp": "llamacpp",
    "torch": "transformers",
    "transformers": "transformers",
    "gguf": "fit",
    "matplotlib": "fit",
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


def install_command(library: str) -> str:
    """Return the command that installs `library` and what its extra brings with it.

    It names the libraries and not EmoGuard, which may come from a clone, a wheel or an index.
    """
    extra = EXTRAS.get(library)
    lines = [line.partition(";") for line in requires("emoguard") or ()]
    wanted = [name.strip() for name, _, marker in lines if f"extra == '{extra}'" in marker]
    return f"pip install {' '.join(repr(each) for each in wanted or [library])}"
