"""`emoguard check`: a policy in words, or the mistake in it."""

import pytest

from emoguard import artifact
from emoguard.cli import main
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe
from tests.emoguard.test_policy import FULL


@pytest.fixture
def probe(tmp_path):
    made = make_probe(FakeResiduals(), ("happy", "sad"), (1, 3))
    artifact.save(tmp_path / "p.safetensors", made, [make_calibration(made, FAKE_IDENTITY)])
    return str(tmp_path / "p.safetensors")


@pytest.fixture
def check(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")

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
        "all usable labels of the probe",
        "at most 1 crossings per 1,000 response tokens",
        "rolling mean of 16 tokens",
        "no token is moved by more than 0.1 of its length; nothing is steered unless",
        "one may not bring a steering plan, ask for scores, choose the channel of notices",
        "a steered response carries one; no profile is followed",
        "remembered in this process only",
        "none: reports stay in this process",
        "restart for",
    ):
        assert words in out


def test_what_is_set_is_told(check):
    code, out, _ = check(FULL.replace("  - rate: {}\n", "").replace("prometheus", "jsonl").replace(
        "{port: 9464}", "{path: log, key_env: K}"
    ))  # fmt: skip
    assert code == 0
    for words in (
        "sad, happy",
        "0.5 crossings",
        "an alarm is reported and ends the response",
        "baseline base.json",
        "happy +0.05, sad capped at quantile 0.99, sad held at the neutral median at layers 3",
        "is clipped; after a fault the rest of the response is stopped",
        "counts neither for drift nor for its baseline",
        "one may bring a steering plan, ask for scores, choose the channel of notices, name its",
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
