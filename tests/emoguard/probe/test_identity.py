import dataclasses
import hashlib
import json

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.probe.identity import model_name
from emoguard.probe.witness import Witness
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_probe

DOOR = FakeResiduals()
LAYERS = (0, 1, 2, 4)


class Door(FakeResiduals):
    """A fake whose residuals are changed by a function of (residuals, layers)."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def residuals(self, token_ids, layers):
        return self.change(super().residuals, token_ids, layers)


def shifted_by(offset):
    return Door(lambda read, ids, layers: read(ids, [n + offset for n in layers]))


def nearest(witness, door, layers):
    """Return the offset of each layer's nearest stored neighbour: 0 is the right one."""
    return [int(best) - 1 for best in witness.cosines(door, layers).argmax(axis=1)]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 1.0])
def test_the_right_layer_is_nearest_under_noise(noise):
    witness = Witness.record(DOOR, LAYERS)
    noisy = FakeResiduals(noise=noise)
    assert nearest(witness, noisy, LAYERS) == [0, 0, 0, 0]
    witness.check(noisy, LAYERS)


@pytest.mark.parametrize("offset", [-1, 1])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_neighbouring_layer_is_refused_by_name(offset, layer):
    witness = Witness.record(DOOR, [layer])
    door = shifted_by(offset)
    assert nearest(witness, door, [layer]) == [offset]
    with pytest.raises(EmoGuardError, match=f"layer {layer} reads like layer {layer + offset};"):
        witness.check(door, [layer])


def test_one_wrong_layer_among_right_ones_is_refused():
    def swapped(read, ids, layers):
        return read(ids, [3 if n == 2 else n for n in layers])

    with pytest.raises(EmoGuardError, match="layer 2 reads like layer 3; the probe"):
        Witness.record(DOOR, LAYERS).check(Door(swapped), LAYERS)


def test_a_layer_the_model_does_not_have_never_wins():
    witness = Witness.record(DOOR, [0, 4])
    assert not witness.residuals[0, 0].any()
    assert not witness.residuals[1, 2].any()
    opposite = Door(lambda read, ids, layers: -read(ids, layers))
    first, last = witness.cosines(opposite, [0, 4])
    assert first[0] == last[2] == -np.inf
    assert first[1] < 0
    assert nearest(witness, opposite, [0, 4])[0] != -1


def test_a_model_with_the_same_sizes_and_other_weights_is_refused():
    other = Door(lambda read, ids, layers: read([i + 7 for i in ids], layers))
    with pytest.raises(EmoGuardError, match="layer 1 reads like none"):
        Witness.record(DOOR, [1]).check(other, [1])


def test_a_model_that_reads_nan_is_refused_in_those_words():
    broken = Door(lambda read, ids, layers: read(ids, layers) * np.nan)
    with pytest.raises(EmoGuardError, match="hold NaN or infinity"):
        Witness.record(DOOR, [1]).check(broken, [1])


def test_a_massive_dimension_and_an_attention_sink_do_not_blind_the_witness():
    def massive(read, ids, layers):
        residuals = read(ids, layers)
        residuals[:, :, 5] += 30_000
        residuals[:, 0] *= 1_000
        return residuals

    witness = Witness.record(Door(massive), [1, 2])

    def massive_and_shifted(read, ids, layers):
        return massive(read, ids, [n + 1 for n in layers])

    assert nearest(witness, Door(massive), [1, 2]) == [0, 0]
    assert nearest(witness, Door(massive_and_shifted), [1, 2]) == [1, 1]


def test_stored_neighbours_are_centred_and_of_unit_norm():
    residuals = Witness.record(DOOR, [1, 2]).residuals
    assert np.allclose(residuals.mean(axis=2), 0, atol=1e-6)
    assert np.allclose(np.linalg.norm(residuals, axis=(2, 3)), 1, atol=1e-5)


def test_digest_differs_when_anything_but_the_name_differs():
    digests = {FAKE_IDENTITY.digest}
    changes = {
        "architecture": "x",
        "layers": 7,
        "hidden": 33,
        "quantisation": "Q8_0",
        "weights": "1",
        "template": "t",
        "adapters": ("lora",),
        "content": "c",
    }
    assert changes.keys() | {"name"} == set(FAKE_IDENTITY.__dataclass_fields__)
    for name, value in changes.items():
        digests.add(dataclasses.replace(FAKE_IDENTITY, **{name: value}).digest)
    assert len(digests) == 1 + len(changes)
    assert dataclasses.replace(FAKE_IDENTITY, name="other").digest in digests


def test_a_field_unknown_to_one_side_makes_no_difference():
    mine = dataclasses.replace(FAKE_IDENTITY, template="t", content="c")
    for name in ("template", "content"):
        assert mine.matches(dataclasses.replace(mine, **{name: ""}))
        assert dataclasses.replace(mine, **{name: ""}).matches(mine)
        assert not mine.matches(dataclasses.replace(mine, **{name: "other"}))


def test_an_identity_without_content_keeps_the_digest_it_had_before_there_was_one():
    fields = dataclasses.asdict(FAKE_IDENTITY)
    del fields["name"], fields["content"]
    wanted = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    assert FAKE_IDENTITY.digest == wanted


def test_records_with_arrays_compare_and_hash_by_identity():
    probe = make_probe(DOOR)
    assert probe == probe  # noqa: PLR0124  (array fields would make this ambiguous)
    assert probe != make_probe(DOOR)
    assert {probe, probe.witness, probe.fold(None)}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/cache/models--Qwen--Qwen2.5-0.5B/snapshots/" + "0" * 40, "Qwen2.5-0.5B"),
        ("models/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
        ("snapshots/abc", "abc"),
        ("", ""),
    ],
)
def test_a_model_in_the_cache_of_the_hub_is_not_called_by_its_commit(path, name):
    assert model_name(path) == name
