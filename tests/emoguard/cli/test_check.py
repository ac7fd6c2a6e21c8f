"""`emoguard check`: a policy in words, or the mistake in it."""

import dataclasses
import os

import pytest
from emoguard_jsonl import Key

from emoguard.cli import main
from emoguard.probe import artifact
from emoguard.sinks.baseline import Baseline
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    make_calibration,
    make_probe,
    make_report,
)
from tests.emoguard.policy.test_policy import FULL


@pytest.fixture
def probe(tmp_path):
    result = make_probe(FakeResiduals(), ("happy", "sad"), (1, 3))
    artifact.save(tmp_path / "p.safetensors", result, [make_calibration(result, FAKE_IDENTITY)])
    return str(tmp_path / "p.safetensors")


@pytest.fixture
def check(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")

    def run(text: str, *more: str) -> tuple[int, str, str]:
        (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
        code = main(["check", str(tmp_path / "policy.yaml"), *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_an_empty_policy_is_told_by_its_defaults(check):
    code, out, err = check("")
    assert (code, err) == (0, "")
    for words in (
        "all of the probe are read, the usable ones watched",
        "at most 1 crossings per 1,000 response tokens",
        "rolling mean of 16 tokens",
        "no token is moved by more than 0.1 of its length; nothing is steered unless",
        "a server may not send a steering plan, ask for scores, choose the channel of notices",
        "a steered response carries one; no profile is followed",
        "remembered in this process only",
        "none: reports stay in this process",
        "restart for",
    ):
        assert words in out


def test_every_setting_is_explained(check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("K", "ab" * 32)
    code, out, _ = check(FULL.replace("  - rate: {}\n", "").replace("prometheus", "jsonl").replace(
        "{port: 9464}", "{path: log, key_env: K}"
    ))  # fmt: skip
    assert code == 0
    for words in (
        "sad, happy",
        "0.5 crossings",
        "an alarm is reported and ends the response",
        "no sink drift, so nothing watches it",
        "no baseline base.json yet, so it is only learning: emoguard baseline log --out base.json",
        "happy +0.05, sad capped at quantile 0.99, sad held at the neutral median at layers 3",
        "is clipped; after a fault the rest of the response is stopped",
        "counts neither for drift nor for its baseline",
        "a server may send a steering plan, ask for scores, choose the channel of notices",
        "a steered response carries one, one in which sad rises; users are known to be minors",
        "a pause of 20 minutes ends an interaction; written after its text, own words for ai",
        "100 conversations are remembered in notices.json",
        "us_ny_1702 ",
        "with the first response of an interaction, once a day, every 2 hours; in force from 2025",
        "us_ca_sb243 ",
        "of a conversation, every 3 hours, with a break suggested; in force from 2026-01-01",
        "us_wa_2225+cn_2026 ",
        "with the first response of an interaction, every 1 hours; in force from 2026-07-15",
        "run and reported as skipped",
        "sinks see 0.25 of all plain responses",
        "jsonl (path log, key_env K)",
        "the last 3 reports",
    ):
        assert words in out, words


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("steering: {max_dose: 1}", "steering.max_dose: unknown; did you mean max_dose_ratio?"),
        ("version: 2", "version: this EmoGuard reads version 1, got 2"),
        ("sinks: [{jsonl: {pth: x}}]", "sinks.0.jsonl.pth: unknown; did you mean path?"),
        ("sinks: [{jsnl: {}}]", "sinks.0.jsnl: unknown; did you mean jsonl?"),
        ("a: [", "this is no YAML"),
        ("notices: {profiles: [eu_art5]}", "notices: eu_art5 is no profile; did you mean eu_art"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_1(check, text, sentence):
    code, out, err = check(text)
    assert (code, out) == (1, "")
    assert f"policy.yaml: {sentence}" in err
    assert err.count("\n") == 1


def test_a_probe_that_fits(check, probe):
    code, out, _ = check("{labels: [sad], steering: {plan: {cap: {sad: 0.9}}}}", "--probe", probe)
    assert code == 0
    assert "has every label and layer that is named" in out
    assert "on F32 " in out
    assert "1 of 1 labels can be certified at this rate" in out


def test_an_amplifying_label_that_can_never_rise_is_told(check, probe):
    rare = "{alarms: {rate_per_1000_tokens: 1e-9}, notices: {amplifying: [sad]}}"
    code, out, _ = check(rare, "--probe", probe)
    assert code == 0
    assert "sad: listed as amplifying, and without a threshold" in out


def test_a_prompt_that_asks_for_expression_is_a_reminder(check, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("\ufeffYou are Mia, a warm and LOVING companion.", encoding="utf-8")
    for system in ("Be warm and loving, a companion.", f"@{prompt}"):
        code, out, err = check("", "--system", system)
        assert (code, err) == (0, "")
        assert "asks for emotional expression (warm, loving, companion)" in out
        assert "notices.prompted: true" in out
        assert "asks for" not in check("notices: {prompted: true}", "--system", system)[1]
    assert "asks for" not in check("", "--system", "Answer in JSON.")[1]
    code, _, err = check("", "--system", "@nowhere.txt")
    assert code == 1
    assert "the system prompt nowhere.txt cannot be read" in err
    assert "so does every other: the prompt sets the tone" in check("notices: {prompted: true}")[1]


def test_a_rate_that_nothing_certifies(check, probe):
    rare = "{labels: [sad], alarms: {rate_per_1000_tokens: 1e-9}}"
    code, out, _ = check(rare, "--probe", probe)
    assert code == 0
    assert "0 of 1 labels can be certified at this rate; not sad: they never alarm" in out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("labels: [glad]", "unknown label glad"),
        ("notices: {amplifying: [glad]}", "notices.amplifying: glad is not read, so it never"),
        ("{labels: [sad], notices: {amplifying: [happy]}}", "happy is not read"),
        ("steering: {plan: {cap: {glad: 0.9}}}", "unknown label glad"),
        ("steering: {plan: {cap: {sad: 0.9}, layers: [2]}}", "layers"),
    ],
)
def test_a_probe_that_does_not_fit(check, probe, text, sentence):
    code, _, err = check(text, "--probe", probe)
    assert code == 1
    assert "policy.yaml: " in err
    assert sentence in err


def test_no_policy_and_no_probe(check, tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert check("", "--probe", "none")[0] == 1


SINKS = """
sinks:
  - jsonl: {path: %(at)s/audit.jsonl, key_file: %(at)s/key}
  - rate: {state: %(at)s/rate.json}
  - drift: {state: %(at)s/drift.json}
  - prometheus: {port: 0}
notices: {state: %(at)s/notices.json}
drift: {baseline: %(at)s/baseline.json}
"""


@pytest.fixture
def site(tmp_path):
    """A folder in which everything that `SINKS` names can be opened."""
    folder = tmp_path / "site"
    folder.mkdir()
    Key.create(folder / "key")
    return folder


def test_a_site_where_all_can_be_opened_is_left_as_it_was(check, site):
    before = sorted(site.iterdir())
    code, out, err = check(SINKS % {"at": site})
    assert (code, err) == (0, "")
    assert f"emoguard baseline {site}/audit.jsonl --out {site}/baseline.json" in out
    assert sorted(site.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("key", None, "sinks.0.jsonl: the audit key cannot be read"),
        ("key", "no key", "sinks.0.jsonl: {at}/key: wanted 64 hexadecimal digits"),
        ("audit.jsonl", "folder", "sinks.0.jsonl: {at}/audit.jsonl cannot be written: it is no"),
        ("rate.json", "folder", "sinks.1.rate: {at}/rate.json cannot be written: it is no file"),
        ("drift.json", "folder", "sinks.2.drift: {at}/drift.json cannot be written: it is no"),
        ("notices.json", "folder", "notices.state: {at}/notices.json cannot be written: it is no"),
        ("baseline.json", "{}", "drift.baseline: {at}/baseline.json is no sound baseline"),
    ],
)
def test_places_that_cannot_be_opened_are_named_and_exit_with_1(
    check, site, name, content, problem
):
    (site / name).unlink(missing_ok=True)
    if content == "folder":
        (site / name).mkdir()
    elif content is not None:
        (site / name).write_text(content)
    code, out, err = check(SINKS % {"at": site})
    assert code == 1
    assert "restart for" in out, "what the policy means is told all the same"
    assert f"policy.yaml: {problem.format(at=site)}" in err
    assert err.count("\n") == 1


def test_every_file_in_a_missing_folder_is_named(check, tmp_path):
    code, _, err = check(SINKS % {"at": tmp_path / "nowhere"})
    assert code == 1
    for key in ("sinks.0.jsonl", "sinks.1.rate", "sinks.2.drift", "notices.state"):
        assert f"policy.yaml: {key}: " in err
    assert not (tmp_path / "nowhere").exists()


def test_a_policy_for_another_machine_is_not_tried_on_this_one(check, tmp_path):
    code, _, err = check(SINKS % {"at": tmp_path / "nowhere"}, "--elsewhere")
    assert (code, err) == (0, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(check, site):
    site.chmod(0o500)
    code, _, err = check(SINKS % {"at": site})
    site.chmod(0o700)
    assert code == 1
    assert f"no permission to write {site}" in err


def test_a_key_that_may_be_made_is_not_made(check, site):
    (site / "key").unlink()
    code, _, err = check((SINKS % {"at": site}).replace("/key}", "/key, create_key: true}"))
    assert (code, err) == (0, "")
    assert not (site / "key").exists()


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", 0), ("203.0.113.7", 1)])
def test_only_a_host_of_another_machine_is_a_problem_and_no_port_in_use(check, host, code):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        actual, _, err = check(f"sinks: [{{prometheus: {{host: {host}, port: {port}}}}}]")
    assert actual == code
    assert ("metrics cannot be served" in err) == bool(code)


def test_a_state_that_will_be_set_aside_is_no_reason_not_to_start(check, site):
    for name in ("rate.json", "drift.json", "notices.json"):
        (site / name).write_text("{")
    assert check(SINKS % {"at": site})[0] == 0
    assert (site / "rate.json").read_text() == "{", "and left as it is"


def traffic(probe_name: str) -> Baseline:
    report = dataclasses.replace(make_report(), probe=probe_name)
    return Baseline.learn([report] * 2500, block_responses=50)


def test_a_baseline_of_another_probe_is_a_problem_only_with_a_probe_to_compare(check, probe, site):
    traffic("other").save(site / "baseline.json")
    code, out, _ = check(SINKS % {"at": site})
    assert code == 0
    assert f"baseline {site}/baseline.json" in out
    code, _, err = check(SINKS % {"at": site}, "--probe", probe)
    assert code == 1
    assert "drift.baseline: the baseline is for probe other" in err


def judged(tmp_path, **card) -> str:
    result = make_probe(FakeResiduals(), ("happy", "sad"), (1, 3))
    result = dataclasses.replace(result, card=card)
    artifact.save(
        tmp_path / "judged.safetensors", result, [make_calibration(result, FAKE_IDENTITY)]
    )
    return str(tmp_path / "judged.safetensors")


@pytest.mark.parametrize("policy", ["labels: [happy, sad]", "notices: {amplifying: [sad]}"])
def test_a_label_that_is_watched_though_not_usable_is_named(check, tmp_path, policy):
    probe = judged(tmp_path, verdicts={"happy": "usable", "sad": "not usable"})
    code, out, _ = check(policy, "--probe", probe)
    assert code == 0
    assert "sad (not usable): watched because the policy names them" in out
    assert "verdicts        happy: usable" in out


def test_a_label_that_is_not_usable_and_not_named_is_not_watched(check, tmp_path):
    probe = judged(tmp_path, verdicts={"happy": "usable", "sad": "not usable"})
    code, out, _ = check("", "--probe", probe)
    assert code == 0
    assert "sad (not usable): not watched unless named" in out


def test_without_a_probe_the_verdicts_of_the_shipped_ones_are_told(check):
    code, out, _ = check("labels: [desperate, guilty]")
    assert code == 0
    assert "in qwen2.5-coder-0.5b-instruct guilty (weak)" in out
    assert "desperate (" not in out
    assert "weak" not in check("labels: [desperate]")[1]
    assert "weak" not in check("labels: [guilty, of_my_own]")[1]


def test_cautions_of_a_probe_are_told(check, tmp_path):
    code, out, _ = check("", "--probe", judged(tmp_path, cautions=["few texts"]))
    assert code == 0
    assert "caution: few texts" in out


def test_a_probe_without_calibration_says_how_to_make_one(check, tmp_path):
    result = make_probe(FakeResiduals(), ("happy", "sad"), (1, 3))
    artifact.save(tmp_path / "raw.safetensors", result)
    _, out, _ = check("", "--probe", str(tmp_path / "raw.safetensors"))
    assert "for no model file: make one with emoguard calibrate --model" in out


def test_a_probe_without_validation_says_so(check, tmp_path):
    assert "none: emoguard validate finds out" in check("", "--probe", judged(tmp_path))[1]


def test_escape_codes_of_a_probe_file_reach_no_terminal(check, tmp_path, capsys):
    odd = "\x1b]0;owned\x07\x1b[2J[red]"
    result = make_probe(FakeResiduals(), ("happy", "sad"), (1, 3))
    identity = dataclasses.replace(FAKE_IDENTITY, name=odd, quantisation=odd)
    path = tmp_path / "odd.safetensors"
    artifact.save(path, result, [make_calibration(result, identity)])
    code, out, err = check("", "--probe", str(path))
    assert code == 0
    assert "]0;owned" in out
    for text in (out, err):
        assert not [c for c in text if c in "\x1b\x07"]
    assert main(["export", str(path), "--label", "happy", "--out", str(tmp_path / "v.gguf")]) == 0
    assert not [c for c in capsys.readouterr().out if c in "\x1b\x07"]
