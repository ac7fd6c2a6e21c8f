"""The `emoguard` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from emoguard.errors import EmoGuardError

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
"""Which extra of this package brings which library."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 refused or broken, 2 misused.

    What EmoGuard refuses and libraries that are not installed become one sentence on stderr.
    """
    try:
        from emoguard.cli.verbs import verbs

        verbs.main(args=arguments, prog_name="emoguard")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except EmoGuardError as error:
        sys.stderr.write(f"emoguard: {_printable(str(error))}\n")
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root not in EXTRAS:
            raise
        extra = EXTRAS[root]
        sys.stderr.write(f"emoguard: this needs {root}: pip install 'emoguard[{extra}]'\n")
    return 1


def _printable(text: str) -> str:
    """Replace control characters: an error may quote a hostile file."""
    return "".join(c if c.isprintable() else " " for c in text)
