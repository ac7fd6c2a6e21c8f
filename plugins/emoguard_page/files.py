"""Reads the page's own files once, and makes the headers that isolate it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from emoguard_asgi.asgi import Headers

KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".md": b"text/markdown; charset=utf-8",
}

RUNBOOK = "runbook.md"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No script but ours, nothing inline, no other host, no frame, and no text ever parsed as HTML."""

SECURITY: Headers = (
    (b"content-security-policy", POLICY.encode("ascii")),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True)
class File:
    """One file as it is sent."""

    content: bytes
    kind: bytes
    tag: bytes

    @property
    def headers(self) -> Headers:
        """Return its headers: browsers keep the file and revalidate it each time."""
        return (
            (b"content-type", self.kind),
            (b"etag", self.tag),
            (b"cache-control", b"no-cache"),
            *SECURITY,
        )


def read() -> dict[str, File]:
    """Return the page's files by the name they are asked for; the empty one is the page itself."""
    own = [each for each in files("emoguard_page").joinpath("static").iterdir() if each.is_file()]
    served = {each.name: _file(each) for each in own}
    served[RUNBOOK] = _file(runbook())
    return served | {"": served["index.html"]}


def runbook() -> Traversable | Path:
    """Return the runbook, which a wheel has beside this file and a clone in its documents."""
    shipped = Path(__file__).parent / RUNBOOK
    return shipped if shipped.exists() else Path(__file__).parents[2] / "docs" / RUNBOOK


def _file(source: Traversable | Path) -> File:
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return File(content, KINDS[Path(source.name).suffix], f'"{digest}"'.encode("ascii"))
