"""Run `pip install` and show each step, with the progress of a compilation.

While it compiles llama.cpp, pip is either silent for minutes or prints every compiler command. Its
full output goes to install.log in the environment; the end of it is printed if pip fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

STEPS = (
    (re.compile(r"\s*(Collecting|Downloading) (?P<what>[\w.-]+)"), "collecting {what}"),
    (re.compile(r"\s*Building wheel for (?P<what>[\w.-]+)"), "compiling {what}"),
    (re.compile(r"\s*Installing collected packages"), "installing"),
)
COMPILED = re.compile(r"\s*\[\s*(?P<done>\d+)(?:/(?P<all>\d+)|%)\]")
"""The progress that ninja ([12/193]) and make ([ 6%]) print before each file."""
SLOW = {
    "compiling llama-cpp-python": "compiling llama.cpp (about 9 minutes on 2 cores, only once)",
}
SHOWN_OF_FAILURE = 25
WIDTH = 79


def steps(lines: Iterable[str]) -> Iterator[str]:
    """Yield each new step, from the lines of pip's verbose output."""
    step, last = "", ""
    for line in lines:
        shown = last
        for pattern, text in STEPS:
            if match := pattern.match(line):
                step = shown = SLOW.get(name := text.format(**match.groupdict()), name)
        if "compiling" in step and (match := COMPILED.match(line)):
            done, whole = int(match["done"]), int(match["all"] or 100)
            shown = f"{step}: {100 * done // whole} %"
        if shown != last:
            yield shown
            last = shown


def display(shown: Iterable[str], *, live: bool) -> Iterator[str]:
    """Yield the text to print for each step, with the time since the start.

    On a terminal one line is overwritten. Elsewhere each kind of step gets one line, and each tenth
    of a compilation another.
    """
    started, last = time.monotonic(), ""
    for step in shown:
        if live:
            yield f"\r{f'  {_since(started)}  {step}':{WIDTH}.{WIDTH}}"
        elif (key := _coarse(step)) != last:
            last = key
            yield f"  {_since(started)}  {step}\n"


def _since(started: float) -> str:
    return "{:.0f}:{:02.0f}".format(*divmod(int(time.monotonic() - started), 60))


def _coarse(step: str) -> str:
    kind, _, share = step.partition(": ")
    if kind.startswith("compiling"):
        return f"{kind}{share and int(share.split()[0]) // 10}"
    return kind.split()[0]


def main(arguments: list[str]) -> int:
    """Install, and return pip's exit code."""
    started = time.monotonic()
    log = Path(sys.prefix) / "install.log"
    command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-input"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore", *arguments]
    print(f"Installing {' '.join(arguments)} into {sys.prefix}", flush=True)
    with (
        log.open("a", encoding="utf-8") as log_file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        assert pip.stdout is not None

        def copied() -> Iterator[str]:
            for line in pip.stdout or ():
                log_file.write(line)
                yield line

        live = sys.stdout.isatty()
        for text in display(steps(copied()), live=live):
            print(text, end="", flush=True)
    if live:
        print("\r" + " " * WIDTH, end="\r")
    if pip.returncode:
        print("".join(log.read_text(encoding="utf-8").splitlines(True)[-SHOWN_OF_FAILURE:]), end="")
        print(f"pip failed; its whole output is in {log}")
    else:
        print(f"Installed in {_since(started)}")
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
