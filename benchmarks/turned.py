"""A share of a model's answers is changed from some point on: how soon does an alarm come?

First the manipulation check: do judges of the text that are no probe (a lexicon, two classifiers
of people's lines) and a hand-labelled sample see the label in the answers? A condition in which
none does has not moved the model, and says nothing about a detector.

Then, on the final pool, whose prompts and phrasings served neither a fit nor a choice: how well
each detector tells the answers of a label from those of the control, which answers the same
prompts (mean AUROC over labels; intervals resample prompts). `shipped` is the shipped probe, `own`
the directions fitted on own answers, `text` a logistic stack of VADER, TF-IDF and MiniLM heads that
were trained on the very answers `own` was fitted on, `both` the same stack with the two probes.

Last the streams. Each detector is a set of label columns under drift's own detector and shares its
average run length among them; again with its limit set on development streams to one alarm in
`TUNED` responses. An alarm of any label counts. Each stream draws its prompts with replacement,
then its answers.

`--check` prints the first, `--streams` the last, `--different` how far traffic moves the scores
that is different and not emotional, and how often it alarms; without any, the middle table.
`--unfitted` prints that for detectors that saw no answer at all: the shipped probe, the judges, and
their means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import textheads, turnstreams
from benchmarks.answertable import Table, over_labels, readings
from benchmarks.conditions import CONDITIONS, FITTED, FOLDER, LABELS, NEUTRAL
from benchmarks.owndirections import STATISTICS, of_labels
from benchmarks.turnstreams import MOST, SHARES, WARM, Detectors, draw, summary
from emoguard.study.judges import Classifier, Embeddings, Encoder, Judge, Lexicon
from emoguard.validate.estimate import Sample

DATA = Path(__file__).parents[2] / "shared" / "data"
CACHE = Path(__file__).parents[1] / ".cache" / "turning"


def judges(embeddings: Path | None) -> list[Judge]:
    """Return judges of a text that are no probe and have seen no answer."""
    found: list[Judge] = [Lexicon(), Classifier(DATA / "goemotions" / "dev.tsv")]
    if embeddings:
        found.append(Embeddings(embeddings, DATA / "goemotions" / "dev.tsv"))
    return found


def check(table: Table, pool: str, embeddings: Path | None) -> None:
    """Print how well judges of the text tell each condition's answers from its control's."""
    known = judges(embeddings)
    print(f"{pool}: AUROC of a label's answers against the control's, mean over labels")
    for condition in CONDITIONS:
        rows = table.where(pool, condition)
        if not len(rows):
            continue
        found = []
        for judge in known:
            scores = np.full((len(table.items), len(LABELS)), np.nan)
            texts = [table.texts[row] for row in rows]
            for n, label in enumerate(LABELS):
                scores[rows, n] = judge.scores(label, texts)
            area = table.area(scores, pool, condition)
            each = " ".join(
                f"{label} {value:.2f}"
                for label, value in zip(LABELS, area.value, strict=True)
                if np.isfinite(value)
            )
            found.append(f"{judge.name} {over_labels(area)} ({each})")
        print(f"{condition:10}", *found, sep="\n    ")


def labelled(table: Table, path: Path) -> None:
    """Print how often a hand-labelled sample shows the label that was asked for."""
    place = {item.key: item for item in table.items}
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    print(
        f"{len(records)} answers labelled by hand, blind: share showing any emotion, the asked one"
    )
    for condition in ("plain", *CONDITIONS):
        for asked in (False, True):
            mine = [
                (place[each["key"]], each["shows"])
                for each in records
                if each["key"] in place and place[each["key"]].condition == condition
                and (place[each["key"]].label != NEUTRAL) == asked
            ]  # fmt: skip
            if not mine:
                continue
            some = sum(bool(shows) for _, shows in mine)
            same = sum(item.label in shows for item, shows in mine)
            what = "asked" if asked else "control"
            print(f"  {condition:10} {what:8} {len(mine):3}: {some:3} any, {same:3} the label")


def columns(model: str, table: Table, embeddings: Path | None) -> dict[str, np.ndarray]:
    """Return the scores of each detector, (answers, labels)."""
    read = readings(model, table)
    statistic = STATISTICS.index(str(read["statistic"]))
    shipped = of_labels(read["shipped"], read["labels"].tolist())[:, :, statistic]
    known = np.isin(table.conditions, ("plain", *FITTED)) & (table.pools == "fit")
    labels, texts = table.labels[known], table.texts
    heads = [
        textheads.lexicon(texts),
        textheads.words([t for t, k in zip(texts, known, strict=True) if k], labels, texts),
    ]
    if embeddings:
        vectors = _embedded(model, table, embeddings)
        heads.append(textheads.meanings(vectors[known], labels, vectors))
    probes = [shipped, read["own"][:, :, statistic]]
    return {
        "shipped": shipped,
        "own": read["own"][:, :, statistic],
        "VADER": heads[0],
        "TF-IDF": heads[1],
        **({"MiniLM": heads[2]} if embeddings else {}),
        "text": stacked(table, heads),
        "both": stacked(table, [*heads, *probes]),
    }


def _embedded(model: str, table: Table, folder: Path) -> np.ndarray:
    path = CACHE / f"{model}-embedded.npz"
    keys = [item.key for item in table.items]
    if path.exists():
        with np.load(path) as file:
            if file["keys"].tolist() == keys:
                return np.asarray(file["vectors"])
    vectors = Encoder(folder).embed(table.texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, keys=keys, vectors=vectors)
    return vectors


def stacked(table: Table, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return log-odds of each label by logistic regression on detectors.

    It is trained on the tuning pool: a label's answers against the controls and the plain answers.
    """
    from sklearn.linear_model import LogisticRegression

    rows = table.where("tuning", "plain", *FITTED)
    found = np.zeros((len(table.items), len(LABELS)))
    for n, label in enumerate(LABELS):
        x = np.stack([part[:, n] for part in parts], axis=1)
        x = (x - x[rows].mean(axis=0)) / x[rows].std(axis=0)
        mine = rows[np.isin(table.labels[rows], (label, NEUTRAL))]
        model = LogisticRegression(class_weight="balanced")
        model.fit(x[mine], table.labels[mine] == label)
        found[:, n] = model.decision_function(x)
    return found


def unfitted(model: str, table: Table, embeddings: Path | None) -> dict[str, np.ndarray]:
    """Return the scores of detectors that no answer was fitted on, (answers, labels).

    `text` is the mean of the judges, each standardised over the plain answers and the controls,
    `both` the mean of that and of the shipped probe.
    """
    read = readings(model, table)
    shipped = of_labels(read["shipped"], read["labels"].tolist())[:, :, STATISTICS.index("mean")]
    usual = table.labels == NEUTRAL

    def standard(scores: np.ndarray) -> np.ndarray:
        return (scores - scores[usual].mean(axis=0)) / scores[usual].std(axis=0)

    found = {"shipped": standard(shipped)}
    for judge in judges(embeddings):
        each = np.stack([judge.scores(label, table.texts) for label in LABELS], axis=1)
        found[judge.name] = standard(each)
    text = standard(np.mean([each for name, each in found.items() if name != "shipped"], axis=0))
    return {**found, "text": text, "both": text + found["shipped"]}


def told(table: Table, scores: dict[str, np.ndarray], pool: str) -> Iterator[str]:
    """Yield the rows of the middle table."""
    for condition in CONDITIONS:
        if not len(table.where(pool, condition)):
            continue
        areas = {name: table.area(each, pool, condition) for name, each in scores.items()}
        yield f"{condition}: " + ", ".join(f"{n} {over_labels(a)}" for n, a in areas.items())
        gain: Sample = areas["both"] - areas["text"]
        yield f"    both - text {over_labels(gain)}"
        apart = {n: table.area(each, pool, condition, others=True) for n, each in scores.items()}
        yield "    against other labels: " + ", ".join(
            f"{n} {over_labels(a)}" for n, a in apart.items()
        )
        tone = {n: table.valence(each, pool, condition) for n, each in scores.items()}
        if np.isfinite(tone["text"].value).all():  # there are both
            yield "    pleasant against unpleasant: " + ", ".join(
                f"{n} {over_labels(a)}" for n, a in tone.items()
            )
        for name in [n for n in ("shipped", "own", "text", "both") if n in areas]:
            each = zip(LABELS, areas[name].value, strict=True)
            yield f"    {name:8}" + " ".join(f"{n} {v:.2f}" for n, v in each if np.isfinite(v))


def sets(model: str, table: Table, scores: dict[str, np.ndarray]) -> list[Detectors]:
    """Return the detectors that compete, each as a set of columns."""
    read = readings(model, table)
    whole = read["shipped"][:, :, STATISTICS.index("mean")]
    alone = [scores["VADER"][:, :1]]
    alone += [scores[name] for name in ("TF-IDF", "MiniLM") if name in scores]
    return [
        Detectors("shipped", whole),
        Detectors("own", scores["own"]),
        Detectors("text alone", np.concatenate(alone, axis=1)),
        Detectors("text stacked", scores["text"]),
        Detectors("both stacked", scores["both"]),
    ]


def streamed(table: Table, found: Sequence[Detectors], options: argparse.Namespace) -> None:
    """Print alarms in unchanged streams, and delays after a change."""
    plain = np.concatenate([table.where(pool, "plain") for pool in ("final", "baseline")])
    development = np.concatenate([table.where(pool, "plain") for pool in ("tuning", "calibration")])
    many, each = max(1, options.unchanged // 10_000), 10_000
    at_rate = [turnstreams.tuned(table, one, development, many, each) for one in found]
    rows = draw(table, plain, [np.array([], int)] * many, 0, each, seed=3)
    print(f"alarms in {many * each:,} unchanged responses")
    for one in (*found, *at_rate):
        count = len(turnstreams.alarms(one, rows, first=False))
        print(f"  {one.name:14} limit {one.arl:7,}: {count}")
    for condition in CONDITIONS:
        if not len(table.where("final", condition)):
            continue
        print(f"\n{condition}: responses from the change to the alarm, median [80 % of streams]")
        for share in SHARES:
            mine = turnstreams.changed_rows(table, condition, options.repeats)
            rows = draw(table, plain, mine, share, WARM + MOST, seed=int(1000 * share))
            print(f"  {100 * share:.0f} %")
            for one in (*found, *at_rate):
                least = turnstreams.least(table, one, plain, condition, share)
                what = summary(turnstreams.delays(one, rows))
                print(f"    {one.name:14} limit {one.arl:7,}: {what}; at least {least:.0f}")


def different(table: Table, found: Sequence[Detectors], streams: int) -> None:
    """Print how far traffic that is different and not emotional moves scores, and its alarms.

    The move is that of the label that moves most, in standard deviations of plain answers; beside
    it the 95 % quantile for as many plain answers to other prompts of the same kind. Alarms come in
    streams that turn to such traffic altogether, beside those in streams that turn to as many plain
    answers: a few dozen drawn again and again differ from all by chance.
    """
    plain = np.concatenate([table.where(pool, "plain") for pool in ("final", "baseline")])
    kinds = dict.fromkeys(
        item.condition for item in table.items
        if item.pool == "final" and item.condition not in {"plain", *CONDITIONS}
    )  # fmt: skip
    groups = {kind: table.where("final", kind) for kind in kinds}
    groups |= {f"{c}, control": turnstreams.neutral_rows(table, "final", c) for c in CONDITIONS}
    print("mean of the label that moves most, sd of plain answers (as many plain ones: 95 %)")
    for kind, rows in groups.items():
        if len(rows):
            moves = [turnstreams.moves(one.scores, plain, rows) for one in found]
            each = (f"{o.name} {m:.2f} ({c:.2f})" for o, (m, c) in zip(found, moves, strict=True))
            print(f"  {kind:22} {len(rows):3} answers: {', '.join(each)}")
    print(f"\nstreams of {streams} that alarm within {MOST:,} responses (of as many plain ones)")
    rng = np.random.default_rng(9)
    for kind, rows in groups.items():
        if len(rows):
            few = [rng.permutation(plain)[: len(rows)] for _ in range(streams)]
            both = [
                draw(table, plain, chosen, 1.0, WARM + MOST, seed=9)
                for chosen in ([rows] * streams, few)
            ]
            each = ", ".join(
                "{} {} ({})".format(
                    one.name, *(np.isfinite(turnstreams.delays(one, drawn)).sum() for drawn in both)
                )
                for one in found
            )
            print(f"  {kind:22} {each}")


def main() -> None:
    """Print one of the three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pool", default="final", help="pool to judge; tuning is for development")
    parser.add_argument("--embeddings", type=Path, help="folder of MiniLM; left out without it")
    parser.add_argument("--check", action="store_true", help="the manipulation check alone")
    parser.add_argument("--streams", action="store_true", help="streams and their alarms")
    parser.add_argument("--unfitted", action="store_true", help="detectors that saw no answer")
    parser.add_argument("--different", action="store_true", help="traffic that is not emotional")
    parser.add_argument("--unchanged", type=int, default=300_000, help="unchanged responses")
    parser.add_argument("--repeats", type=int, default=10, help="streams of each label")
    options = parser.parse_args()
    table = Table.load(options.model, read=not options.check)
    if options.check:
        check(table, options.pool, options.embeddings)
        hand = FOLDER / f"labelled-{options.model}.jsonl"
        if hand.exists():
            labelled(table, hand)
        return
    if options.unfitted:
        scores = unfitted(options.model, table, options.embeddings)
        print(*told(table, scores, options.pool), sep="\n")
        return
    scores = columns(options.model, table, options.embeddings)
    if options.streams:
        streamed(table, sets(options.model, table, scores), options)
    elif options.different:
        different(table, sets(options.model, table, scores), 2 * options.repeats)
    else:
        print(*told(table, scores, options.pool), sep="\n")


if __name__ == "__main__":
    main()
