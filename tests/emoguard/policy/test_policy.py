"""What a policy may say, and how a mistake in it is told."""

import copy
import dataclasses
import enum
import json
import pickle
import types
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from emoguard import EmoGuardError, Plan, Policy
from emoguard.notices.policy import NoticePolicy
from emoguard.policy import schema
from emoguard.policy.policy import RequestPolicy
from emoguard.sinks.policy import AlarmPolicy, DriftPolicy
from emoguard.steering.policy import SteeringPolicy

SCHEMA = Path(__file__).parents[3] / "docs" / "policy.schema.json"
FULL = """
version: 1
labels: [sad, happy]
alarms: {rate_per_1000_tokens: 0.5, window_tokens: 8, hysteresis_sd: 0, on_alert: stop}
drift: {tolerance_rank: 0.2, arl_blocks: 100, block_responses: 10, baseline: base.json}
steering:
  max_dose_ratio: 0.2
  plan: {add: {happy: 0.05}, cap: {sad: 0.99}, ablate: [sad], layers: [3], prompt: true}
  on_excess: clip
  on_fault: stop
requests: {plan: true, scores: true, channel: true, conversation: true}
notices:
  profiles: [us_ny_1702, us_ca_sb243]
  strictest_of: [us_wa_2225, cn_2026]
  known_minors: true
  every_hours: {us_ny_1702: 2, cn_2026: 1.5}
  continuing_gap_minutes: 20
  utc_offset_hours: -5
  amplifying: [sad]
  channel: suffix
  locale: en
  text: {ai: You are talking with software.}
  state: notices.json
  keep_conversations: 100
on_unsupported: skip
sample_ratio: 0.25
sinks:
  - prometheus: {port: 9464}
  - rate: {}
keep_reports: 3
"""

SECTIONS = [
    (Policy, ()),
    (AlarmPolicy, ("alarms",)),
    (DriftPolicy, ("drift",)),
    (SteeringPolicy, ("steering",)),
    (Plan, ("steering", "plan")),
    (RequestPolicy, ("requests",)),
    (NoticePolicy, ("notices",)),
]
WRONG = [
    None, True, 0, 1, -1, 3, 0.25, 16.5, 1e9, "", "Stop", "Refuse", "yes", "sad", "16",
    [], ["sad"], [1], [[]], {}, {"sad": 0.05}, {"sad": "much"}, {"sad": 2}, {"x": {}},
    {"plan": 3}, [{"rate": {}}], [{"rate": 1}],
]  # fmt: skip


def generated() -> str:
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Made from the policy: python -m tests.emoguard.policy.test_policy",
    }
    return json.dumps(head | schema.json_schema(Policy), indent=2) + "\n"


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        path = tmp_path / "policy.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Policy.load(path)

    return load_text


def test_a_full_file_is_read(load):
    assert load(FULL) == Policy(
        labels=("sad", "happy"),
        alarms=AlarmPolicy(0.5, 8, 0, "stop"),
        drift=DriftPolicy(0.2, 100, 10, "base.json"),
        steering=SteeringPolicy(
            0.2,
            Plan(add={"happy": 0.05}, cap={"sad": 0.99}, ablate=("sad",), layers=(3,), prompt=True),
            "clip",
            "stop",
        ),
        requests=RequestPolicy(plan=True, scores=True, channel=True, conversation=True),
        notices=NoticePolicy(
            profiles=("us_ny_1702", "us_ca_sb243"),
            strictest_of=("us_wa_2225", "cn_2026"),
            known_minors=True,
            every_hours={"us_ny_1702": 2, "cn_2026": 1.5},
            continuing_gap_minutes=20,
            utc_offset_hours=-5,
            amplifying=("sad",),
            channel="suffix",
            locale="en",
            text={"ai": "You are talking with software."},
            state="notices.json",
            keep_conversations=100,
        ),
        on_unsupported="skip",
        sample_ratio=0.25,
        sinks=({"prometheus": {"port": 9464}}, {"rate": {}}),
        keep_reports=3,
    )


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n", "null"])
def test_an_empty_file_is_the_default(load, text):
    assert load(text) == Policy()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sample_rato: 3", "sample_rato: unknown; did you mean sample_ratio?"),
        ("zzz: 3", "zzz: unknown; known keys: version, labels, alarms"),
        ("foo: 1", "foo: unknown; known keys: version, labels, alarms"),
        ("window: 3", "window: unknown; known keys: version, labels, alarms"),
        ("alarms: {window: 3}", "alarms.window: unknown; did you mean window_tokens?"),
        ("steering: {plan: {foo: 1}}", "steering.plan.foo: unknown; known keys: add, cap, floor"),
        ("plan: {}", "plan: unknown; did you mean steering.plan or requests.plan?"),
        ("max_dose_ratio: 1", "max_dose_ratio: unknown; did you mean steering.max_dose_ratio?"),
        ("steering: {max_dose: 1}", "steering.max_dose: unknown; did you mean max_dose_ratio?"),
        ("steering: {plan: {ad: {}}}", "steering.plan.ad: unknown; did you mean add?"),
        ("keep_reports: soon", 'keep_reports: wanted a whole number, got "soon"'),
        ("keep_reports: true", "keep_reports: wanted a whole number, got true"),
        ("keep_reports: '16'", 'keep_reports: wanted a whole number, got "16"'),
        ("keep_reports: 1.5", "keep_reports: wanted a whole number, got 1.5"),
        ("keep_reports: -1", "keep_reports: wanted a number of at least 1, got -1"),
        (
            "alarms: {window_tokens: 0}",
            "alarms.window_tokens: wanted a number of at least 1, got 0",
        ),
        ("alarms: 3", "alarms: wanted a mapping, got 3"),
        ("alarms: null", "alarms: wanted a mapping, got null"),
        ("sample_ratio: 1.1", r"sample_ratio: wanted a number in \[0, 1\], got 1.1"),
        ("sample_ratio: .nan", 'sample_ratio: wanted a number, got ".nan"'),
        ("sample_ratio: 1e999", "sample_ratio: wanted .* a finite number.*, got inf"),
        ("requests: {plan: yes}", 'requests.plan: wanted a boolean, got "yes"'),
        ("notices: {profile: []}", "notices.profile: unknown; did you mean profiles?"),
        ("notices: {profiles: [eu]}", "notices: eu is no profile; known profiles: eu_art50"),
        ("notices: {channel: header}", "notices.channel: wanted 'field' or 'suffix', got"),
        (
            "notices: {every_hours: {cn_2026: 0}}",
            "notices.every_hours.cn_2026: wanted a number above 0",
        ),
        (
            "notices: {continuing_gap_minutes: 60}",
            "notices.continuing_gap_minutes: wanted a number",
        ),
        ("labels: sad", 'labels: wanted a list, got "sad"'),
        ("labels: [1]", r"labels\.0: wanted text, got 1"),
        ("labels: [sad, sad]", "labels must be distinct"),
        ("labels: null", "labels: wanted a list, got null"),
        ("on_unsupported: ask", "on_unsupported: wanted 'refuse' or 'skip', got \"ask\""),
        (
            "steering: {plan: {cap: {sad: 2}}}",
            r"steering.plan.cap.sad: wanted a number in \[0, 1\], got 2",
        ),
        ("steering: {plan: {add: {sad: 1}}}", "the plan's doses come to 1, .* max_dose_ratio"),
        ("sinks: [rate]", r'sinks\.0: wanted a mapping, got "rate"'),
        ("sinks: [{rate: 1}]", r"sinks\.0\.rate: wanted a mapping, got 1"),
        (
            "sinks: [{rate: {}, drift: {}}]",
            r"sinks\.0 must be one name with its options, got rate, d",
        ),
        ("version: 2", "version: this EmoGuard reads version 1, got 2"),
        ("version: true", "version: this EmoGuard reads version 1, got true"),
        ("1: 2", "line 1: 1: not a key"),
        ("null: 2", "line 1: null: not a key"),
        ("labels: []\nlabels: []", "line 2: labels: given twice"),
        ("keep_reports: 010", "keep_reports: line 1: 010 is octal to some"),
        ("alarms:\n  window_tokens: !!int 3", "alarms.window_tokens: line 2: tags are not taken"),
        ("- labels", "wanted a mapping of keys to values, got a list"),
        ("labels", 'wanted a mapping of keys to values, got "labels"'),
    ],
)
def test_a_mistake_is_named_by_its_key(load, text, sentence):
    with pytest.raises(EmoGuardError, match=f"policy.yaml: {sentence}"):
        load(text)


def refusal(make):
    """Return the sentence that something is refused with, "" where it is taken."""
    try:
        make()
    except EmoGuardError as error:
        return str(error).partition("; did you mean")[0]  # the near key depends on what is read
    return ""


@pytest.mark.parametrize(("cls", "path"), SECTIONS)
def test_python_is_refused_in_the_words_of_the_file(cls, path):
    for name in {field.name for field in dataclasses.fields(cls)} - {"version"}:
        for value in WRONG:
            data = {name: value}
            for section in reversed(path):
                data = {section: data}
            from_file = refusal(lambda data=data: Policy.parse(data)).removeprefix("policy: ")
            in_python = refusal(lambda name=name, value=value: cls(**{name: value}))
            if from_file.startswith("the plan's doses"):
                continue  # a plan alone has no bound
            own_place = f"{cls.__name__}.{name}"
            key = ".".join((*path, name))
            assert in_python.replace(own_place, key) == from_file, (name, value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AlarmPolicy(on_alert="Stop"), r"on_alert: .* got \"Stop\"; did you mean stop\?"),
        (lambda: AlarmPolicy(on_alert="STOP "), "did you mean stop"),
        (lambda: SteeringPolicy(on_fault="Stop"), "SteeringPolicy.on_fault: .* did you mean stop"),
        (lambda: SteeringPolicy(on_excess="Refuse"), "on_excess: .* did you mean refuse"),
        (lambda: Policy(on_unsupported="Refuse"), "Policy.on_unsupported: .* did you mean refuse"),
        (lambda: NoticePolicy(channel="sufix"), "channel: .* did you mean suffix"),
        (lambda: AlarmPolicy(window_tokens=16.5), "window_tokens: wanted a whole number, got 16.5"),
        (lambda: AlarmPolicy(window_tokens=True), "window_tokens: wanted a whole number, got true"),
        (lambda: AlarmPolicy(window_tokens=2**63), "window_tokens: wanted a whole number below"),
        (lambda: AlarmPolicy(hysteresis_sd=True), "hysteresis_sd: wanted a number, got true"),
        (lambda: AlarmPolicy(hysteresis_sd=10**400), "hysteresis_sd: wanted a finite number"),
        (
            lambda: Policy(sample_ratio=float("nan")),
            "sample_ratio: wanted a finite number, got nan",
        ),
        (lambda: Policy(sample_ratio="0.5"), 'sample_ratio: wanted a number, got "0.5"'),
        (lambda: Policy(labels="desperate"), 'Policy.labels: wanted a list, got "desperate"'),
        (lambda: Policy(labels={"sad"}), "labels: wanted a list, got set"),
        (lambda: Policy(labels=(1,)), r"labels\.0: wanted text, got 1"),
        (lambda: Policy(steering=3), "Policy.steering: wanted a mapping, got 3"),
        (lambda: Policy(steering=AlarmPolicy()), "steering: wanted a mapping, got AlarmPolicy"),
        (lambda: Policy(steering={"max_dose": 1}), "steering.max_dose: unknown; did you mean max_"),
        (
            lambda: Policy(alarms={"on_alert": "Stop"}),
            "Policy.alarms.on_alert: .* did you mean sto",
        ),
        (lambda: Policy(steering={"plan": {"cap": {"sad": 2}}}), "steering.plan.cap.sad: wanted"),
        (lambda: Policy(sinks=({"rate": 1},)), r"sinks\.0\.rate: wanted a mapping, got 1"),
        (lambda: Policy(sinks={"rate": {}}), "sinks: wanted a list, got a mapping"),
        (lambda: Policy(labels=("a", "a")), "labels must be distinct, got a, a"),
        (lambda: RequestPolicy(plan="no"), 'RequestPolicy.plan: wanted a boolean, got "no"'),
        (lambda: NoticePolicy(profiles="eu_art50"), "profiles: wanted a list"),
        (lambda: NoticePolicy(text=[("ai", "x")]), "text: wanted a mapping, got a list"),
        (lambda: NoticePolicy(state=3), "state: wanted text, got 3"),
        (
            lambda: DriftPolicy(tolerance_rank=0.5),
            r"tolerance_rank: wanted a number in \[0, 0.45\]",
        ),
        (lambda: dataclasses.replace(AlarmPolicy(), on_alert="Stop"), "did you mean stop"),
    ],
)
def test_a_wrong_value_in_python_is_named_where_it_is_made(make, sentence):
    with pytest.raises(EmoGuardError, match=sentence):
        make()


class Action(enum.Enum):
    STOP = "stop"


class Word(str, enum.Enum):  # noqa: UP042  (as many programs have them)
    STOP = "stop"


def test_python_may_write_values_in_its_own_ways():
    result = Policy(
        labels=["sad"],
        alarms={"on_alert": Word.STOP, "window_tokens": np.int64(8)},
        drift=DriftPolicy(tolerance_rank=np.float32(0.25), baseline=Path("base.json")),
        steering={"plan": {"cap": {"sad": np.float64(0.9)}, "layers": [np.int32(3)]}},
        requests=types.MappingProxyType({"plan": np.True_}),
    )
    assert result == Policy.parse(
        {
            "labels": ["sad"],
            "alarms": {"on_alert": "stop", "window_tokens": 8},
            "drift": {"tolerance_rank": 0.25, "baseline": "base.json"},
            "steering": {"plan": {"cap": {"sad": 0.9}, "layers": [3]}},
            "requests": {"plan": True},
        }
    )
    kinds = (
        result.labels,
        result.alarms.on_alert,
        result.alarms.window_tokens,
        result.drift.baseline,
    )
    assert [type(each) for each in kinds] == [tuple, str, int, str]
    assert type(result.requests.plan) is bool
    with pytest.raises(EmoGuardError, match=r"on_alert: .* got Action"):
        AlarmPolicy(on_alert=Action.STOP)


def test_a_policy_keeps_no_mapping_that_its_maker_may_change():
    cap, options = {"sad": 0.9}, {"port": 1}
    policy = Policy(steering=SteeringPolicy(plan=Plan(cap=cap)), sinks=({"prometheus": options},))
    cap["sad"], options["port"] = 99, 2
    assert policy.steering.plan.cap == {"sad": 0.9}
    assert policy.sinks == ({"prometheus": {"port": 1}},)


def test_a_policy_is_its_own_description_and_survives_copies(load):
    full = load(FULL)
    assert Policy.parse(full) is full
    assert Policy.parse(dataclasses.asdict(full)) == full
    for result in (
        copy.deepcopy(full),
        pickle.loads(pickle.dumps(full)),
        dataclasses.replace(full),
    ):
        assert result == full


@pytest.mark.parametrize("path", ["nowhere/policy.yaml", "no\0where"])
def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        Policy.load(path)
    with pytest.raises(EmoGuardError, match="wanted the path of a YAML file, got a mapping"):
        Policy.load({"labels": ["sad"]})


def test_only_the_wire_is_denied_by_default():
    requests = dataclasses.asdict(Policy().requests)
    assert requests == dict.fromkeys(("plan", "scores", "channel", "conversation"), False)


def test_a_policy_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().labels = ("sad",)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
def test_a_share_of_requests_is_sampled_and_always_the_same(share):
    policy = Policy(sample_ratio=share)
    chosen = [policy.samples(f"request {n}") for n in range(4000)]
    assert chosen == [policy.samples(f"request {n}") for n in range(4000)]
    # Fixed ids, so this either holds or not: 4 standard deviations.
    assert abs(sum(chosen) / 4000 - share) <= 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_request_sampled_at_a_lower_share_is_sampled_at_a_higher_one():
    low, high = Policy(sample_ratio=0.2), Policy(sample_ratio=0.6)
    assert all(high.samples(name) for name in map(str, range(1000)) if low.samples(name))
    assert high.samples("\ud800") in {True, False}


def test_committed_schema_is_the_one_of_the_code():
    assert SCHEMA.read_text(encoding="utf-8") == generated(), (
        "docs/policy.schema.json is old: run python -m tests.emoguard.policy.test_policy"
    )


def test_every_key_of_the_schema_is_described():
    sections = json.loads(generated())
    for section in (sections, *sections["$defs"].values()):
        assert section["description"]
        assert section["additionalProperties"] is False
        # A section says itself what it is, and a plan's description what its keys are.
        for name, key in section["properties"].items():
            known = {"description", "$ref"} & key.keys() or name in Plan.__dataclass_fields__
            assert known, name


def test_the_schema_accepts_the_same_policies_as_the_code(load):
    from emoguard.policy import yamlfile

    check = jsonschema.Draft202012Validator(json.loads(generated()))
    check.validate(yamlfile.loads(FULL.encode(), "policy"))
    check.validate({})
    for wrong in (
        {"version": 2},
        {"steering": {"max_dose_ratio": 0.6}},
        {"alarms": {"windw": 1}},
        {"sample_ratio": -0.1},
        {"sinks": ["rate"]},
        {"keep_reports": "3"},
        {"notices": {"channel": "header"}},
        {"notices": {"every_hours": {"cn_2026": -1}}},
    ):
        assert not check.is_valid(wrong), wrong
        with pytest.raises(EmoGuardError, match=next(iter(wrong))):
            Policy.parse(wrong)


if __name__ == "__main__":
    SCHEMA.write_text(generated(), encoding="utf-8")
