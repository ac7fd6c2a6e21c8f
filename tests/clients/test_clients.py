"""Client libraries read exactly the text the app sent, and the object where they let one see it.

The Python libraries come with the extra `clients`, the npm ones with `npm ci` in this folder; a
library that is not there is skipped, and the reason says so.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import models
from tests.support.wire import NOTICED, FakeWatch

pytest.importorskip("uvicorn", reason="needs uvicorn: the extra serve brings it")

from emoguard_asgi import EmoGuardMiddleware

from tests.clients.serving import Recorder, ScriptedApp, serving

HERE = Path(__file__).parent

# The ways of each library, and whether its caller can see keys that it does not know.
PYTHON = {
    "openai": {"whole": True, "raw": True, "helper": True},
    "loop": {"naive": False, "plain": True},
    "litellm": {"whole": True, "stream": True},
    "langchain": {"whole": False, "stream": False},
    "llamaindex": {"whole": True, "stream": True},
}
NPM = {
    "openai": {"whole": True, "stream": True, "helper": True},
    "langchain": {"whole": False, "stream": False},
    "ai": {"whole": True, "stream": True},
}
MODULES = {
    "openai": "openai",
    "loop": "openai",
    "litellm": "litellm",
    "langchain": "langchain_openai",
    "llamaindex": "llama_index.llms.openai_like",
}
PACKAGES = {"openai": "openai", "langchain": "@langchain/openai", "ai": "ai"}


def python(library):
    """Return the command that goes the ways of a Python library; skips where it is missing."""
    try:
        spec = importlib.util.find_spec(MODULES[library])
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        pytest.skip(f"{MODULES[library]} is not installed: pip install --group clients")
    return [sys.executable, str(HERE / "ways.py"), library]


def npm(library):
    """Return the command that goes the ways of an npm library; skips where it is missing."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: npm clients need version 20 or later")
    if not (HERE / "node_modules" / PACKAGES[library]).is_dir():
        pytest.skip(f"{PACKAGES[library]} is not installed: npm ci in tests/clients")
    return ["node", str(HERE / "ways.mjs"), library]


@pytest.fixture(scope="module")
def scripted():
    """A server whose app sends what is hard to carry."""
    watch = FakeWatch(NOTICED)
    recorder = Recorder(ScriptedApp(watch))
    with serving(EmoGuardMiddleware(recorder, watch)) as up:
        yield up.url, recorder


@pytest.fixture(scope="module")
def real():
    """llama_cpp.server with SmolLM2, as `emoguard serve` runs it."""
    pytest.importorskip("fastapi", reason="needs llama_cpp.server: the extra serve brings it")
    from emoguard_llamacpp import server

    import emoguard

    settings, model = server.read_model(str(models.smollm2_gguf()), n_ctx=1024, n_threads=1)
    served = server.open_app(settings, model)
    recorder = Recorder(served.app)
    with (
        emoguard.open_guard(served.model, NOTICED) as guard,
        emoguard.attach(served.model, guard) as watch,
        serving(EmoGuardMiddleware(recorder, watch)) as up,
    ):
        yield up.url, recorder
    served.model.close()


def go(command, server, library, ways):
    url, recorder = server
    done = subprocess.run(
        [*command, f"{url}/v1"], capture_output=True, text=True, check=False, timeout=300, cwd=HERE
    )
    assert done.returncode == 0, done.stderr[-4000:]
    data = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["way"] for each in data] == [f"{library} {name}" for name in ways]
    for each, sees in zip(data, ways.values(), strict=True):
        sent = recorder.text(each["way"])
        assert sent
        assert each["text"] == sent, each["way"]
        kind = each["emoguard"] and each["emoguard"]["notice"]["kind"]
        assert kind == ("ai" if sees else None), each["way"]


@pytest.mark.parametrize("library", PYTHON)
def test_python_clients_read_the_answers_of_a_scripted_app(library, scripted):
    go(python(library), scripted, library, PYTHON[library])


@pytest.mark.parametrize("library", NPM)
def test_npm_clients_read_the_answers_of_a_scripted_app(library, scripted):
    go(npm(library), scripted, library, NPM[library])


@pytest.mark.real
@pytest.mark.parametrize("library", PYTHON)
def test_python_clients_read_the_answers_of_a_model(library, real):
    go(python(library), real, library, PYTHON[library])


@pytest.mark.real
@pytest.mark.parametrize("library", NPM)
def test_npm_clients_read_the_answers_of_a_model(library, real):
    go(npm(library), real, library, NPM[library])
