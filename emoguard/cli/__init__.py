"""The `emoguard` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from emoguard.errors import EmoGuardError
from emoguard.extras import extra_of, install_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 refused or broken, 2 misused.

    Refusals of EmoGuard and missing libraries become one sentence on stderr.
    """
    try:
        from emoguard.cli.screen import replace_unencodable
        from emoguard.cli.verbs import verbs

        replace_unencodable()
        verbs.main(args=arguments, prog_name="emoguard")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except EmoGuardError as error:
        sys.stderr.write(f"emoguard: {_printable(str(error))}\n")
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if extra_of(root) is None:
            raise
        sys.stderr.write(f"emoguard: this needs {root}: {install_command(root)}\n")
    return 1


def _printable(text: str) -> str:
    """Replace control characters: an error may quote a hostile file."""
    return "".join(c if c.isprintable() else " " for c in text)
