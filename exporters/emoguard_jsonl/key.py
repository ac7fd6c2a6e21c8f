"""Reads and makes the key of an audit log, which is kept outside the log, away from forgers."""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Self

from emoguard import keptfile, regularfile
from emoguard.errors import EmoGuardError

log = logging.getLogger("emoguard")

BYTES = 32


class Key:
    """A secret of 32 bytes, from which two others are derived (HMAC-SHA256 under fixed names).

    One chains the lines, one hides the names of conversations, so that neither says anything about
    the other. The key itself is never shown.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != BYTES:
            raise EmoGuardError(f"an audit key has {BYTES} bytes, got {len(secret)}")
        self._chain = hmac.digest(secret, b"emoguard audit chain", "sha256")
        self._names = hmac.digest(secret, b"emoguard audit conversation", "sha256")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a key file: 64 hexadecimal digits.

        Raises:
            EmoGuardError: it cannot be read or holds something else.

        """
        try:
            text = regularfile.read(path, 1024)
            mode = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError as error:
            raise EmoGuardError(
                f"the audit key cannot be read ({error}): make one with emoguard audit key {path}"
            ) from error
        if mode & 0o077:
            log.warning(
                "the audit key %s is open to others (mode %o), who can forge the log: chmod 600 it",
                path,
                mode,
            )
        return cls._parse(text.decode("ascii", "replace"), str(path))

    @classmethod
    def from_environment(cls, name: str) -> Self:
        """Read the key from an environment variable: 64 hexadecimal digits.

        Raises:
            EmoGuardError: it is not set or holds something else.

        """
        if name not in os.environ:
            raise EmoGuardError(f"the audit key should be in the environment as {name}: set it")
        return cls._parse(os.environ[name], f"environment variable {name}")

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Write a new random key to a new file that only its owner can read (mode 0600).

        Raises:
            EmoGuardError: the file exists (a key is never overwritten) or cannot be written.

        """
        secret = secrets.token_bytes(BYTES)
        try:
            keptfile.create(path, f"{secret.hex()}\n".encode("ascii"), 0o600)
        except OSError as error:
            raise EmoGuardError(f"the audit key cannot be written: {error}") from error
        return cls(secret)

    @classmethod
    def _parse(cls, text: str, source: str) -> Self:
        # The error does not quote the text: it may be a key.
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * BYTES}}}", text.strip()):
            raise EmoGuardError(
                f"{source}: wanted {2 * BYTES} hexadecimal digits, got {len(text.strip())} "
                "characters of something else: make a key with emoguard audit key FILE"
            )
        return cls(bytes.fromhex(text.strip()))

    def seal(self, body: bytes) -> str:
        """Return the MAC of a line's body, 64 hexadecimal digits."""
        return hmac.digest(self._chain, body, "sha256").hex()

    def pseudonym(self, conversation: str) -> str:
        """Return the pseudonym of a conversation in this log: the same for the same name."""
        name = conversation.encode("utf-8", "surrogatepass")
        return hmac.digest(self._names, name, "sha256").hex()[:32]
