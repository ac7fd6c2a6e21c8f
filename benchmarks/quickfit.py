"""What does `emoguard fit --quick` give up? Its probe beside the whole one of the same model.

Printed for each label: the cosine of the two read directions and of the two steer directions (mean
over the layers that both have), the correlation and the mean distance of the two z over the tokens
of kept answers, and both verdicts; for the probes the AUROC on corpora left out beside that of the
text alone, as each judged it.

`python benchmarks/quickfit.py QUICK WHOLE --model F --answers benchmarks/answers/NAME.jsonl.gz`
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emoguard import Guard
from emoguard.errors import EmoGuardError
from emoguard.fit.responses import read_rows
from emoguard.probe.probe import Probe
from emoguard.runtime.openers import open_speaker
from emoguard.runtime.speaker import Generated, Speaker

ANSWERS = 100


def cosines(quick: Probe, whole: Probe, name: str) -> np.ndarray:
    """Return the cosine of each label of `quick`, mean over common layers, (labels,)."""
    layers = [layer for layer in quick.layers if layer in whole.layers]
    columns = [whole.labels.index(label) for label in quick.labels]
    each_layer = []
    for layer in layers:
        a = getattr(quick, name)[quick.layers.index(layer)]
        b = getattr(whole, name)[whole.layers.index(layer)][columns]
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        each_layer.append((a * b).sum(axis=1) / lengths)
    return np.mean(each_layer, axis=0) if layers else np.full(len(quick.labels), np.nan)


def kept(path: str) -> list[Generated]:
    """Return the last answers of a packed file: calibrations took the first ones, too."""
    lines = gzip.decompress(Path(path).read_bytes()).decode().splitlines()[1:]
    return [Generated(each["prompt"], each["answer"]) for each in map(json.loads, lines[-ANSWERS:])]


def scores(guard: Guard, speaker: Speaker, answers: Sequence[Generated]) -> np.ndarray:
    """Return z of all tokens, (tokens, labels)."""
    calibration = guard.calibration(speaker.door.identity)
    if calibration is None:
        raise EmoGuardError(f"{guard.probe.name} is not calibrated for {speaker.door.identity}")
    raw = np.concatenate(read_rows(speaker.door, guard.probe, answers))
    return np.asarray((raw - calibration.location) / calibration.scale)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("quick")
    parser.add_argument("whole")
    parser.add_argument("--model", required=True)
    parser.add_argument("--answers", required=True)
    options = parser.parse_args()
    guards = {name: Guard.load(getattr(options, name)) for name in ("quick", "whole")}
    quick, whole = (guard.probe for guard in guards.values())
    speaker, answers = open_speaker(options.model), kept(options.answers)
    z = {name: scores(guard, speaker, answers) for name, guard in guards.items()}
    columns = [whole.labels.index(label) for label in quick.labels]
    apart = np.abs(z["quick"] - z["whole"][:, columns])
    read, steer = cosines(quick, whole, "read"), cosines(quick, whole, "steer")
    for name, probe in (("quick", quick), ("whole", whole)):
        area = probe.card["transfer_auroc"]
        print(f"{name}: layers {probe.layers}, AUROC {area['model']}, text alone {area['words']}")
    print(f"{len(z['quick']):,} tokens of {len(answers)} answers")
    print("label        read  steer  correlation  |dz|  quick, whole")
    for n, label in enumerate(quick.labels):
        together = np.corrcoef(z["quick"][:, n], z["whole"][:, columns[n]])[0, 1]
        print(
            f"{label:12} {read[n]:.2f}  {steer[n]:.2f}   {together:.2f}         "
            f"{apart[:, n].mean():.2f}  {quick.verdicts[label]}, {whole.verdicts[label]}"
        )
    print(
        f"mean         {read.mean():.2f}  {steer.mean():.2f}                "
        f"{apart.mean():.2f}  "
        f"{sum(quick.verdicts[x] == whole.verdicts[x] for x in quick.labels)} alike"
    )


if __name__ == "__main__":
    main()
