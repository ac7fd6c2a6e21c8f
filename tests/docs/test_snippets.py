"""Every snippet of the README, the tutorials and the architecture runs, as a reader would run it.

Each page has a working directory of its own that holds the small models under the names that the
pages use. Python blocks share one namespace. Shell blocks run in bash; `emoguard serve` goes on in
the background until the end of its page, as in another terminal. A YAML block is saved under the
name in its first line. Ports are replaced by free ones.

Lines that install or run make are compared with pyproject.toml and the Makefile: installing is
tried by `make wheel`, `make demo` by a new clone.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

from tests.support import models

ROOT = models.ROOT
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "architecture.md",
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]
SHOWN = {"text", "toml"}
"""Languages of blocks that are only shown."""
PORTS = ("8000", "9464")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STARTING_SECONDS = 300


class Page:
    """One page as it is worked through; `run` takes the next block."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {"__name__": "__main__"}
        self.ports = {port: _free_port() for port in PORTS}
        self.servers = []

    def run(self, example):
        """Run one block of Python, bash or YAML."""
        example.namespace["page"] = self
        example.evaluate()

    def text(self, example):
        """Return a block with free ports."""
        text = example.parsed
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", free, text)
        return text

    def python(self, example):
        """Run a block in the page's namespace; line numbers are those of the page."""
        code = compile("\n" * example.line + self.text(example), str(example.path), "exec")
        exec(code, self.names)

    def yaml(self, example):
        """Save a block under the name in its first line, as an editor does: whole."""
        text = self.text(example)
        actual = re.match(r"# (\S+\.yaml)\n", text)
        assert actual, "the first line must name the file"
        part = self.folder / "part"
        part.write_text(text, encoding="utf-8")
        part.rename(self.folder / actual[1])

    def bash(self, example):
        """Run a block; a server goes on in the background."""
        lines = [line for line in self.text(example).splitlines() if not _is_setup(line)]
        before, serve, options = "\n".join(lines).partition("emoguard serve")
        self._shell(before)
        if serve:
            self._serve(serve + options)

    def _shell(self, script):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"

    def _serve(self, command):
        log = self.folder / "server.log"
        command += f" --port {self.ports['8000']}"
        with log.open("w") as out:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder, env=_environment(), stdout=out, stderr=out,
            )  # fmt: skip
        self.servers.append(server)
        ready = f"http://127.0.0.1:{self.ports['8000']}/readyz"
        deadline = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            try:
                with urllib.request.urlopen(ready, timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.2)
        pytest.fail(f"{command} is not ready:\n{log.read_text()}")

    def close(self):
        """Stop what still runs and what still watches."""
        for server in self.servers:
            server.terminate()
            assert server.wait(60) == 0, "the server did not end cleanly"
        if "watch" in self.names:
            self.names["watch"].detach()


def _is_setup(line):
    """Return whether a line installs or runs make; raise if it names what is not there."""
    words = line.partition("#")[0].split()
    if words[:2] == ["pip", "install"]:
        for extras in re.findall(r"\.\[([\w,]+)\]", line):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
        return True
    if words[:1] == ["make"]:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
        return True
    return False


def _environment():
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": beside, "OMP_NUM_THREADS": "1"}


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.fixture
def page(path, tmp_path, monkeypatch):
    gguf = models.smollm2_gguf()
    (tmp_path / gguf.name).symlink_to(gguf)
    if path.name == "README.md":  # a tutorial makes the folder itself
        (tmp_path / "SmolLM2-135M-Instruct").symlink_to(models.hf_copy(gguf))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    page = Page(tmp_path)
    yield page
    page.close()


def parser(language):
    """Return a parser of blocks in one language, run by the method of a page of that name."""
    return CodeBlockParser(
        language, lambda block: getattr(block.namespace["page"], language)(block)
    )


def blocks(path):
    """Return the examples of a page in Python, bash and YAML, in their order."""
    parsers = [parser(language) for language in ("python", "bash", "yaml")]
    return list(Sybil(parsers, path=str(ROOT), pattern="*.md").parse(path))


@pytest.mark.real
@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_snippets_of_a_page_run_in_their_order(path, page):
    actual = blocks(path)
    assert actual
    for example in actual:
        page.run(example)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_block_is_left_out_for_want_of_a_language(path):
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"^\s*```(\S*)", text, re.MULTILINE)[::2]
    assert len(blocks(path)) == len([fence for fence in fences if fence not in SHOWN]), fences


def test_a_wrong_extra_or_target_is_noticed():
    assert _is_setup('pip install ".[llamacpp,cli]"')
    with pytest.raises(AssertionError):
        _is_setup('pip install ".[llama]"')
    with pytest.raises(AssertionError):
        _is_setup("make everything")


def test_a_broken_snippet_fails_with_its_line(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(textwrap.dedent("""\
        # A page

        ```python
        wrong
        ```
        """))  # fmt: skip
    (example,) = blocks(path)
    with pytest.raises(NameError) as error:
        Page(tmp_path).run(example)
    assert error.traceback[-1].lineno == 3
