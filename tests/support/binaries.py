"""The real Prometheus and Alertmanager: Debian's packages, unpacked into `.cache`, never installed.

`python -m tests.support.binaries` fetches them; once they are there nothing is fetched again. On a
machine without apt, or without a network the first time, tests that need them are skipped.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "prometheus"
PACKAGES = {
    "prometheus": ("prometheus", "promtool"),
    "prometheus-alertmanager": ("prometheus-alertmanager", "amtool"),
}
# Debian's Alertmanager reads its templates from a folder below /usr/share. These are as many bytes
# and name the same folder from where the package is unpacked.
INSTALLED = b"/usr/share/prometheus/alertmanager"
UNPACKED = b"usr/share//prometheus/alertmanager"


def promtool() -> str:
    """Return the path of promtool; skips the test when it cannot be had."""
    return str(_binary("prometheus", "promtool"))


def prometheus() -> str:
    """Return the path of Prometheus; skips the test when it cannot be had."""
    return str(_binary("prometheus", "prometheus"))


def alertmanager() -> tuple[str, Path]:
    """Return Alertmanager's path and the folder it must be started in; skips as the others."""
    actual = _binary("prometheus-alertmanager", "prometheus-alertmanager")
    return str(actual), CACHE / "prometheus-alertmanager"


def _binary(package: str, name: str) -> Path:
    why = _fetched(package)
    if why:
        pytest.skip(why)
    return CACHE / package / "usr" / "bin" / name


@functools.cache
def _fetched(package: str) -> str | None:
    """Fetch a package unless it is in the cache; return why it cannot be had."""
    try:
        fetch(package)
    except (OSError, subprocess.SubprocessError) as error:
        tail = getattr(error, "stderr", None) or str(error)
        return f"needs Debian's package {package}: {tail.strip().splitlines()[-1]}"
    return None


def fetch(package: str) -> None:
    """Download a package and unpack it into the cache, all or nothing; fine when it is there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / ".lock"):  # another test process may be at it
        if not (CACHE / package).is_dir():
            _fetch(package)


def _fetch(package: str) -> None:
    for needed in ("apt-get", "dpkg-deb"):
        if shutil.which(needed) is None:
            raise OSError(f"there is no {needed} here to fetch it with")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        _download(package, Path(folder))
        (archive,) = Path(folder).glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), f"{folder}/x")
        for name in PACKAGES[package]:
            _relocate(Path(folder) / "x" / "usr" / "bin" / name)
        Path(folder, "x").rename(CACHE / package)


def _download(package: str, folder: Path) -> None:
    """Download into `folder`, with package lists of our own where the system has none."""
    try:
        _run("apt-get", "download", package, cwd=folder)
    except subprocess.CalledProcessError:
        own = CACHE / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (own / name).mkdir(parents=True, exist_ok=True)
        places = ("-o", f"Dir::State={own}/state", "-o", f"Dir::Cache={own}/cache")
        places += ("-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User=")
        _run("apt-get", *places, "update", cwd=folder)
        _run("apt-get", *places, "download", package, cwd=folder)


def _relocate(binary: Path) -> None:
    content = binary.read_bytes()
    if INSTALLED in content:
        binary.write_bytes(content.replace(INSTALLED, UNPACKED))


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = os.environ | {"LC_ALL": "C"}
    subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )


if __name__ == "__main__":
    for each in PACKAGES:
        fetch(each)
