import dataclasses
import itertools
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Guard
from emoguard.probe import artifact
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

DOOR = FakeResiduals()
PROBE = make_probe(DOOR)
CALIBRATION = dataclasses.replace(
    make_calibration(PROBE, FAKE_IDENTITY), context={"system prompt": "Be kind.\nBe brief."}
)
NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1)


def blob_of(probe=PROBE, calibrations=(CALIBRATION,)):
    return artifact.encode(probe, calibrations)


BLOB = blob_of()


def parts(blob=BLOB):
    """Return header, description and tensor bytes of a probe file, for tampering."""
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    meta = json.loads(header.pop("__metadata__")["emoguard"])
    return header, meta, blob[8 + size :]


def joined(header, meta, data):
    whole = {"__metadata__": {"emoguard": json.dumps(meta)}} | header
    return framed(json.dumps(whole).encode(), data)


def framed(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


@given(
    labels=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    layers=st.sampled_from([(1,), (0, 2), (1, 2, 4)]),
    calibrated=st.integers(0, 2),
    name=NAMES.map(lambda text: text.replace("@", "")).filter(bool),
    card=st.dictionaries(
        st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    ),
)
def test_saving_and_loading_gives_the_same(  # noqa: PLR0917  (hypothesis passes by name)
    tmp_path_factory, labels, layers, calibrated, name, card
):
    path = tmp_path_factory.getbasetemp() / "probe.safetensors"
    probe = dataclasses.replace(
        make_probe(DOOR, labels, layers), name=name, axes=tuple(labels[:1]), card=card
    )
    identities = [
        dataclasses.replace(FAKE_IDENTITY, adapters=("a",) * n) for n in range(calibrated)
    ]
    calibrations = [make_calibration(probe, identity) for identity in identities]
    artifact.save(path, probe, calibrations)
    loaded, actual = artifact.load(path)
    assert loaded.name.split("@")[0] == name
    for field in ("labels", "layers", "axes", "architecture", "model_layers", "card", "recipe"):
        assert getattr(loaded, field) == getattr(probe, field)
    for field in ("read", "steer", "centre", "weights"):
        assert np.array_equal(getattr(loaded, field), getattr(probe, field))
    assert np.array_equal(loaded.witness.token_ids, probe.witness.token_ids)
    assert np.allclose(loaded.witness.residuals, probe.witness.residuals, rtol=1e-3, atol=1e-6)
    assert [c.identity for c in actual] == identities
    for before, after in zip(calibrations, actual, strict=True):
        for field in ("location", "scale", "means", "norms", "limits", "responses", "tokens"):
            assert np.array_equal(getattr(before, field), getattr(after, field))
        assert after.created == before.created > 0
        for field in before.curve.__dataclass_fields__:
            assert np.array_equal(getattr(before.curve, field), getattr(after.curve, field))


def test_a_calibration_without_crossings_is_kept_and_certifies_nothing():
    plain = dataclasses.replace(CALIBRATION, curve=None)
    _, (actual,) = artifact.loads(blob_of(calibrations=[plain]))
    assert actual.curve is None
    assert not any(Guard(PROBE, [actual]).site(FAKE_IDENTITY).thresholds.values())


def test_a_loaded_file_makes_a_guard_that_accepts_its_model(tmp_path):
    path = tmp_path / "probe.safetensors"
    artifact.save(path, PROBE, [CALIBRATION])
    guard = Guard.load(path)
    guard.probe.witness.check(DOOR, guard.probe.layers)
    assert guard.calibration(FAKE_IDENTITY).context == CALIBRATION.context


def test_the_name_tells_files_apart_and_does_not_grow():
    first, _ = artifact.loads(BLOB)
    again, _ = artifact.loads(blob_of(first))
    other, _ = artifact.loads(blob_of(make_probe(DOOR, seed=1)))
    assert first.name.count("@") == again.name.count("@") == 1
    assert first.name != other.name


def test_a_file_cut_anywhere_is_refused():
    (size,) = struct.unpack("<Q", BLOB[:8])
    header, _, _ = parts()
    ends = {8 + size + end for entry in header.values() for end in entry["data_offsets"]}
    cuts = {c + d for c in ends | {0, 8, 8 + size} for d in (-1, 0, 1)} | set(
        range(0, len(BLOB), 97)
    )
    for cut in sorted(c for c in cuts if 0 <= c < len(BLOB)):
        with pytest.raises(EmoGuardError):
            artifact.loads(BLOB[:cut])


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"GGUF" + b"\0" * 100,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", artifact.MAX_HEADER_BYTES + 1) + b" " * (artifact.MAX_HEADER_BYTES + 1),
        framed(b"{}"),
        framed(b"[]"),
        framed(b"null"),
        framed(b"\xff\xfe"),
        framed(b"[" * 100_000),
        framed(b'{"a":' * 100_000),
        framed(b"1" * 100_000),
        framed(b'{"__metadata__": 3}'),
        framed(b'{"__metadata__": {"emoguard": "[]"}}'),
        framed(b'{"__metadata__": {"emoguard": "{}"}}'),
        framed(b'{"__metadata__": {"emoguard": "' + b"[" * 100_000 + b'"}}'),
        framed(b'{"__metadata__": {"emoguard": "{\\"format\\": \\"emoguard-probe-9\\"}"}}'),
        BLOB + b"more",
    ],
    ids=lambda blob: repr(blob[8:30]),
)
def test_a_file_that_is_not_a_probe_is_refused(blob):
    with pytest.raises(EmoGuardError):
        artifact.loads(blob)


DEEP = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *itertools.product(
            [("labels",), ("layers",), ("axes",), ("calibrations",), ("recipe",)],
            [None, 3, "text", [None], [[]], [{}], [-1], [2**40], DEEP, [True]],
        ),
        *itertools.product(
            [("name",), ("architecture",), ("model_layers",)],
            [None, -1, 2**40, True, [], {}, "x" * 1001, "\ud800", DEEP],
        ),
        *itertools.product([("name",), ("labels", 0)], ["", "\x1b[31mred", "two\nlines", "nul\0"]),
        *itertools.product(
            [("calibrations", 0, key) for key in ("identity", "responses", "tokens", "context")],
            [None, -1, 1e300, "x", [], {"a": 1}, DEEP],
        ),
        *itertools.product(
            [("calibrations", 0, "crossings", key) for key in ("window", "positions", "responses")],
            [None, -1, 1e300, True, "x", [], {"a": 1}, DEEP],
        ),
        *itertools.product(
            [("calibrations", 0, "crossings", "hysteresis")],
            [None, -1, True, "x", 10**400, [], DEEP],
        ),
        *itertools.product([("calibrations", 0, "crossings")], [0, "x", [], {}, DEEP]),
        *itertools.product(
            [("calibrations", 0, "identity", key) for key in FAKE_IDENTITY.__dataclass_fields__],
            [None, -1, 1.5, {}, DEEP, "\ud800"],
        ),
        (("calibrations", 0, "identity", "surprise"), 1),
    ],
)
def test_a_description_that_is_wrong_is_refused(path, value):
    header, meta, data = parts()
    place = meta
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(EmoGuardError):
        artifact.loads(joined(header, meta, data))


@pytest.mark.parametrize("key", list(parts()[1]))
def test_a_description_that_lacks_a_key_is_refused(key):
    header, meta, data = parts()
    del meta[key]
    with pytest.raises(EmoGuardError):
        artifact.loads(joined(header, meta, data))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**62, 2**62]},
        {"shape": [-1]},
        {"shape": [0]},
        {"shape": []},
        {"dtype": "F64"},
        {"dtype": "BF16"},
        {"dtype": "F8_E4M3"},
        {"dtype": "BOOL"},
        {"dtype": "X"},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [0, 8]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", list(parts()[0]))
def test_tensors_described_wrongly_are_refused(name, change):
    header, meta, data = parts()
    if all(header[name][key] == value for key, value in change.items()):
        pytest.skip("that is how it is")
    header[name] |= change
    with pytest.raises(EmoGuardError):
        artifact.loads(joined(header, meta, data))


@pytest.mark.parametrize("name", list(parts()[0]))
def test_a_file_without_one_of_its_tensors_is_refused(name):
    header, meta, data = parts()
    del header[name]
    with pytest.raises(EmoGuardError):
        artifact.loads(joined(header, meta, data))


def test_overlapping_and_repeated_tensors_are_refused():
    header, meta, data = parts()
    header["steer"]["data_offsets"] = header["read"]["data_offsets"]
    with pytest.raises(EmoGuardError):
        artifact.loads(joined(header, meta, data))
    header, meta, data = parts()
    twice = json.dumps({"__metadata__": {"emoguard": json.dumps(meta)}} | header)
    twice = twice[:-1] + f', "read": {json.dumps(header["steer"])}}}'
    with pytest.raises(EmoGuardError):
        artifact.loads(framed(twice.encode(), data))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", [n for n in parts()[0] if n != "witness.token_ids"])
def test_numbers_that_are_not_finite_are_refused(name, bad):
    header, meta, data = parts()
    start = header[name]["data_offsets"][0]
    value = np.array(bad, np.float16 if header[name]["dtype"] == "F16" else np.float32).tobytes()
    with pytest.raises(EmoGuardError):
        artifact.loads(joined(header, meta, data[:start] + value + data[start + len(value) :]))


@pytest.mark.parametrize("path", ["nowhere.safetensors", ".", "nul\0l"])
def test_a_path_that_cannot_be_read_is_refused(path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        artifact.load(path)


def test_a_huge_file_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(2**40)  # sparse: no bytes on disk
    with pytest.raises(EmoGuardError, match="at most 67,108,864 bytes, got more"):
        artifact.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"card": {"auc": float("nan")}},
        {"card": {"array": np.ones(2)}},
        {"name": "two\nlines"},
        {"labels": ("happy", "sad\x1b")},
    ],
    ids=str,
)
def test_an_unloadable_probe_is_not_written_over_a_good_file(tmp_path, change):
    path = tmp_path / "probe.safetensors"
    artifact.save(path, PROBE)
    before = path.read_bytes()
    with pytest.raises(EmoGuardError):
        artifact.save(path, dataclasses.replace(PROBE, **change))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_calibration_of_another_probe_is_not_written(tmp_path):
    path = tmp_path / "probe.safetensors"
    other = make_probe(DOOR, ("a", "b", "c"))
    with pytest.raises(EmoGuardError, match="calibration location"):
        artifact.save(path, PROBE, [make_calibration(other, FAKE_IDENTITY)])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_and_left_clean(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (folder, tmp_path / "missing" / "probe.safetensors"):
        with pytest.raises(EmoGuardError, match="cannot be written"):
            artifact.save(path, PROBE)
    assert list(tmp_path.iterdir()) == [folder]
