"""`emoguard calibrate`, on a tiny random model: certificates, resuming, what is refused."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import emoguard
from emoguard import EmoGuardError, Guard, Policy
from emoguard.cli import main
from emoguard.fit import calibrating, realign
from emoguard.probe import artifact
from emoguard.runtime.attach import find
from emoguard.testing import make_calibration, make_probe
from tests.support import models, tiny_gguf
from tests.support.models import load_llama

WORDS = ["toast", "heat", "stone", "river", "north", "piano", "glass", "seven", "orange", "map"]
POLICY = "alarms: {rate_per_1000_tokens: 20, window_tokens: 2}\nlabels: [happy]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama"))


@pytest.fixture
def files(tmp_path, model):
    door = find(load_llama(model))[0].open_residuals(load_llama(model))
    probe = make_probe(door, ("happy", "sad"), (1, 2))
    other = dataclasses.replace(door.identity, quantisation="Q2_K")
    artifact.save(tmp_path / "in.safetensors", probe, [make_calibration(probe, other)])
    lines = [f"What is {a} {b} {c}?" for a in WORDS for b in WORDS for c in WORDS]
    (tmp_path / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "policy.yml").write_text(POLICY, encoding="utf-8")
    return tmp_path


def arguments(files, path, **changes):
    options = {
        "model": path,
        "probe": str(files / "in.safetensors"),
        "out": str(files / "out.safetensors"),
        "prompts": str(files / "prompts.txt"),
        "responses": "12",
        "tokens": "16",
        "threads": "1",
    }
    values = (options | changes).items()
    return ["calibrate", *(part for name, value in values for part in (f"--{name}", value))]


def test_it_certifies_a_policy_and_keeps_the_calibrations_of_other_files(files, model, capsys):
    chosen = {"policy": str(files / "policy.yml"), "responses": "600", "tokens": "10"}
    assert main(arguments(files, model, **chosen)) == 0
    out = capsys.readouterr().out
    assert "happy" in out
    assert "cannot certify" not in out
    _, calibrations = artifact.load(files / "out.safetensors")
    assert [c.identity.quantisation for c in calibrations] == ["Q2_K", "F32"]
    new = calibrations[1]
    assert (new.curve.window, new.curve.responses) == (2, 608)  # whole groups of 16
    assert new.context["tokens"] == "10"
    guard = Guard.load(files / "out.safetensors", Policy.load(files / "policy.yml"))
    (threshold,) = guard.site(new.identity).thresholds.values()
    assert threshold.bound <= 20
    llm = load_llama(model)
    with emoguard.attach(llm, guard) as watch:
        llm.create_completion("toast is heat", max_tokens=6, temperature=0.0)
        assert watch.reports[-1].scores["happy"].crossings is not None


def test_quantisations_are_calibrated_on_the_same_responses(files, model, monkeypatch):
    monkeypatch.setattr(models, "CACHE", files)
    half = models.quantised(Path(model), "F16")
    assert main(arguments(files, model, also=str(half))) == 0
    _, calibrations = artifact.load(files / "out.safetensors")
    assert [c.identity.quantisation for c in calibrations] == ["Q2_K", "F32", "F16"]
    assert calibrations[1].responses == calibrations[2].responses
    assert calibrations[1].context == calibrations[2].context


def test_another_model_is_not_calibrated_on_them(files, model, capsys):
    other = str(tiny_gguf.write(files / "other.gguf", "llama", seed=1))
    assert main(arguments(files, model, also=other)) == 1
    assert "does not sit where the probe was fitted" in capsys.readouterr().err
    assert not (files / "out.safetensors").exists()
    assert not (files / "out.safetensors.answers.jsonl").exists()  # said before any answer


def test_what_was_measured_is_kept_when_the_next_file_breaks(files, model, monkeypatch):
    plain, read = calibrating.read, []

    def breaking(reader, *rest, **options):
        if read:
            raise EmoGuardError("injected")
        read.append(reader)
        return plain(reader, *rest, **options)

    monkeypatch.setattr(calibrating, "read", breaking)
    monkeypatch.setattr(models, "CACHE", files)
    assert main(arguments(files, model, also=str(models.quantised(Path(model), "F16")))) == 1
    _, calibrations = artifact.load(files / "out.safetensors")
    assert [c.identity.quantisation for c in calibrations] == ["Q2_K", "F32"]


def test_too_few_responses_say_that_nothing_is_certified(files, model, capsys):
    assert main(arguments(files, model)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("cannot certify") == 2
    assert "needs 600 responses" in out
    assert "got 15: give --responses 600." in out
    again, _ = artifact.load(files / "out.safetensors")
    assert again.labels == ("happy", "sad")


def test_too_few_prompts_are_not_told_to_be_mended_by_more_responses(files, model, capsys):
    (files / "few.txt").write_text("\n".join(WORDS), encoding="utf-8")
    assert main(arguments(files, model, responses="600", prompts=str(files / "few.txt"))) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "got 10: give more prompts by --prompts" in out


def test_killed_it_goes_on_and_ends_as_if_it_had_not_been(files, model):
    main(arguments(files, model, out=str(files / "whole.safetensors"), responses="40"))
    whole = (files / "whole.safetensors.answers.jsonl").read_bytes()
    work = files / "out.safetensors.answers.jsonl"
    code = "import sys; from emoguard.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments(files, model, responses="40")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (work.exists() and work.stat().st_size > 2000):
            assert child.poll() is None, "it ended before it was killed"
        os.kill(child.pid, signal.SIGKILL)
    kept = work.read_bytes()
    assert kept
    assert len(kept) < len(whole)
    assert main(arguments(files, model, responses="40")) == 0
    assert work.read_bytes() == whole
    assert work.read_bytes().startswith(kept.rpartition(b"\n")[0])
    both = [artifact.load(files / f"{name}.safetensors")[1][1] for name in ("out", "whole")]
    assert (both[0].means == both[1].means).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"out": "probe.bin"}, "must end in .safetensors"),
        ({"model": "none.gguf"}, "none.gguf"),
        ({"probe": "none"}, "there is no probe none"),
        ({"prompts": "none.txt"}, "none.txt"),
        ({"policy": "none.yml"}, "none.yml"),
        ({"tokens": "15"}, "at least the 16 of the alarm window, got 15"),
        ({"probe": "smollm2-135m-instruct"}, "was made for a"),
    ],
    ids=str,
)
def test_what_is_refused_is_one_sentence_before_anything_is_generated(
    files, model, capsys, changes, sentence
):
    assert main(arguments(files, model, **changes)) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (files / "out.safetensors.answers.jsonl").exists()


def test_other_settings_do_not_take_over_the_answers(files, model, capsys):
    main(arguments(files, model))
    assert main(arguments(files, model, temperature="0.9")) == 1
    assert "of other inputs" in capsys.readouterr().err


def test_a_realigned_calibration_measures_zero_and_scale_alone(files, model, monkeypatch, capsys):
    monkeypatch.setattr(realign, "LEAST", 0.0)  # random directions tell nothing apart
    command = [part for part in arguments(files, model) if part not in ("--responses", "12")]
    assert main([*command, "--realign"]) == 0
    printed = capsys.readouterr()
    assert "The directions hold: mean AUROC 0." in printed.out
    assert "Caution: realigned on " in printed.err
    _, (old, new) = artifact.load(files / "out.safetensors")
    assert new.identity.quantisation == "F32"
    assert 48 <= new.responses <= 64  # whole groups of 16
    assert new.curve is None
    assert (new.means == old.means).all()
    assert (new.location != old.location).all()
    assert Guard.load(files / "out.safetensors").calibration(new.identity).cautions == new.cautions


def test_without_a_calibration_there_is_nothing_to_realign(files, model, capsys):
    probe, _ = artifact.load(files / "in.safetensors")
    artifact.save(files / "in.safetensors", probe)
    assert main([*arguments(files, model), "--realign"]) == 1
    assert "has no calibration that could be realigned" in capsys.readouterr().err
