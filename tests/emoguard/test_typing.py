"""Type checkers know the public face: requests on a model's calls, options of attach."""

import sys

import pytest

from emoguard.runtime.watched import Options
from tests.support.runtimes import ROOT

pytestmark = pytest.mark.slow

SNIPPET = """
import emoguard
from emoguard import Guard, Policy, Report, Request, TextScores, Watch

def serve(model: object, guard: Guard) -> Report:
    with emoguard.watch(model, policy=Policy(), probe="a", tokenizer=None) as watch:
        checked: Watch = watch
        watch.model.create_chat_completion([], emoguard=Request(scores="text"))
        watch.model.generate(inputs=1, emoguard=[Request(), Request()])
        watch.model("prompt", max_tokens=3, emoguard=Request())
        watch.model.anything_else
    emoguard.attach(model, guard, backend="native").detach()
    scores: TextScores = emoguard.score(model, ["a"], labels=["happy"])
    print(scores["happy"].mean(), scores.as_dicts()[0]["happy"])
    with emoguard.open_guard(model) as opened:
        checked_guard: Guard = opened
    return watch.reports[-1]
"""

WRONG = {
    'watch.model("prompt", max_tokens=3, emoguard=Request())': (
        'watch.model("prompt", emoguard="tokens")',
        'Argument "emoguard"',
    ),
    'backend="native"': ('backend="fast"', 'Argument "backend"'),
    "tokenizer=None": ("tokeniser=None", 'Unexpected keyword argument "tokeniser"'),
}


def check(text, folder):
    api = pytest.importorskip("mypy.api")
    path = folder / "snippet.py"
    path.write_text(text)
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache")]
    out, err, code = api.run([*config, "--python-executable", sys.executable, str(path)])
    return code, out + err


def test_a_checker_accepts_right_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out = check(SNIPPET, tmp_path)
    assert code == 0, out


def test_a_checker_names_wrong_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = SNIPPET
    for right, (wrong, _) in WRONG.items():
        assert right in text
        text = text.replace(right, wrong)
    code, out = check(text, tmp_path)
    assert code == 1
    for _, sentence in WRONG.values():
        assert sentence in out
    assert out.count("error:") == len(WRONG)


def test_options_are_those_of_plugins():
    import inspect

    import emoguard_llamacpp
    import emoguard_transformers
    import emoguard_vllm

    plugins = (emoguard_llamacpp, emoguard_transformers, emoguard_vllm)
    known = {
        name for plugin in plugins for name in list(inspect.signature(plugin.joint).parameters)[1:]
    }
    assert known == set(Options.__annotations__)
