"""Mutations of a sound probe file: only EmoGuardError, at most 1 s and 1 GiB per file.

`make test` fuzzes for 5 s; EMOGUARD_FUZZ_SECONDS=60 fuzzes longer.
"""

import copy
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

from emoguard import EmoGuardError, artifact
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

SECONDS = float(os.environ.get("EMOGUARD_FUZZ_SECONDS", "5"))
ODD = [
    None, True, -1, 0, 2**31, 2**63, -(2**63), 10**30, 1e308, "", "\ud800", "\0", "x" * 5000,
    [], {}, [[]], [2**62, 2**62], [0, 0], [-1, 1], "F16", "F32", "I64", "BF16", "F8_E5M2", "U8",
]  # fmt: skip


def seed_file():
    probe = make_probe(FakeResiduals(), ("happy", "sad", "calm"))
    return artifact.encode(probe, [make_calibration(probe, FAKE_IDENTITY)])


def flip_bytes(rng, blob):
    out = bytearray(blob)
    (size,) = struct.unpack("<Q", blob[:8])
    for _ in range(rng.randint(1, 8)):
        # Mostly in the header: that is where the structure is.
        out[rng.randrange(8 + size if rng.random() < 0.7 else len(out))] = rng.randrange(256)
    return bytes(out)


def cut(rng, blob):
    return blob[: rng.randrange(len(blob))]


def splice(rng, blob):
    start, end = sorted(rng.randrange(len(blob)) for _ in range(2))
    at = rng.randrange(len(blob))
    return blob[:at] + blob[start:end] + blob[at:]


def resize(rng, blob):
    size = rng.choice([0, 1, 2, len(blob), len(blob) - 8, 2**22, 2**32, 2**63, 2**64 - 1])
    return struct.pack("<Q", size) + blob[8:]


def deepen(rng, blob):
    piece = rng.choice([b"[", b'{"a":', b'[{"a":'])
    header = rng.choice([b"", b'{"__metadata__": {"emoguard": "', b'{"__metadata__":'])
    header += piece * rng.randrange(1, 400_000)
    return struct.pack("<Q", len(header)) + header + blob[8:]


def widen(rng, blob):
    """Put one million small things where a few are wanted."""
    many = json.dumps([rng.choice(ODD[:4])] * rng.randrange(1, 500_000))
    return edit(rng, blob, lambda rng: json.loads(many))


def replace_values(rng, blob):
    return edit(rng, blob, lambda rng: copy.deepcopy(rng.choice(ODD)))


def edit(rng, blob, value):
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    meta = json.loads(header["__metadata__"]["emoguard"])
    for _ in range(rng.randint(1, 3)):
        place = rng.choice([header, meta])
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
                place = place[key]
                continue
            if rng.random() < 0.2:
                del place[key]
            else:
                place[key] = value(rng)
            break
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["emoguard"] = json.dumps(meta)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + blob[8 + size :]


MUTATIONS = (flip_bytes, flip_bytes, cut, splice, resize, deepen, widen) + (replace_values,) * 5


def fuzz(seconds, seed):
    """Feed mutated files until time is up; return how many, how many were sound, the slowest."""
    rng, blob = random.Random(seed), seed_file()
    files = sound = 0
    slowest = 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hostile = rng.choice(MUTATIONS)(rng, blob)
        start = time.process_time()
        try:
            artifact.loads(hostile)
            sound += 1
        except EmoGuardError as error:
            assert len(str(error)) < 2000, "a refusal is one sentence"  # noqa: PT017
        slowest = max(slowest, time.process_time() - start)
        files += 1
    return {"files": files, "sound": sound, "slowest_s": slowest, "peak_bytes": peak_bytes()}


def peak_bytes():
    """Return this process's own peak memory.

    Not ru_maxrss where it can be had otherwise: on Linux a child inherits its parent's.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def in_child(*arguments):
    """Fuzz in a process of its own: its peak memory is then the reader's."""
    out = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr[-3000:]
    return json.loads(out.stdout)


def test_mutated_files_are_refused_fast_and_small():
    seed = random.SystemRandom().randrange(2**32)
    found = in_child(str(SECONDS), str(seed))
    print(seed, found)  # noqa: T201  (shown when a check below fails: the seed repeats it)
    assert found["files"] > 20 * SECONDS
    assert found["sound"] < found["files"] / 2
    assert found["slowest_s"] <= 1
    assert found["peak_bytes"] <= 2**30


def largest_file():
    """Return a file of the greatest size allowed, its shapes consistent, its witness enormous."""
    meta = {
        "format": artifact.FORMAT, "name": "x", "labels": ["a"], "axes": [], "layers": [1],
        "architecture": "x", "model_layers": 4, "recipe": {}, "card": {}, "calibrations": [],
    }  # fmt: skip
    tokens = 400
    hidden = (artifact.MAX_FILE_BYTES - 16_384) // (3 * 4 + 3 * (tokens - 1) * 2)
    shapes = {
        "read": ("F32", [1, 1, hidden], 4 * hidden),
        "steer": ("F32", [1, 1, hidden], 4 * hidden),
        "centre": ("F32", [1, hidden], 4 * hidden),
        "weights": ("F32", [1], 4),
        "witness.token_ids": ("I64", [tokens], 8 * tokens),
        "witness.residuals": ("F16", [1, 3, tokens - 1, hidden], 6 * (tokens - 1) * hidden),
    }
    header, offset = {"__metadata__": {"emoguard": json.dumps(meta)}}, 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\x01" * offset


def load_largest():
    blob = largest_file()
    assert artifact.MAX_FILE_BYTES * 0.95 < len(blob) <= artifact.MAX_FILE_BYTES
    start = time.process_time()
    try:
        artifact.loads(blob)
    except EmoGuardError as error:
        refusal = str(error)
    spent = time.process_time() - start
    return {"refusal": refusal, "slowest_s": spent, "peak_bytes": peak_bytes()}


def test_the_largest_file_is_refused_fast_and_small():
    found = in_child("largest")
    assert "must have length 1" in found["refusal"]
    assert found["slowest_s"] <= 1
    assert found["peak_bytes"] <= 2**30


if __name__ == "__main__":
    outcome = (
        load_largest() if sys.argv[1] == "largest" else fuzz(float(sys.argv[1]), int(sys.argv[2]))
    )
    sys.stdout.write(json.dumps(outcome))
