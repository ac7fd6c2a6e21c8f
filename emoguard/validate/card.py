"""Writes the card: every number of a validation beside its floor and chance, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from emoguard.validate.carddata import NOTHING, RULE, Blocks

if TYPE_CHECKING:
    from emoguard.validate.comparison import Comparison
    from emoguard.validate.estimate import Estimate
    from emoguard.validate.onpolicy import Flagged
    from emoguard.validate.validation import Validation

INTRODUCTION = (
    "A direction is not a feeling. Every number stands beside what the text alone gives, without a "
    "language model, and beside chance, with 95 % intervals (bootstrap over topics)."
)
NONE = "-"


@dataclass(frozen=True)
class Table:
    """One table of the card, in one `section`: the verdicts, the recipe or the file."""

    section: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(result: Validation, blocks: Blocks = NOTHING) -> list[Table]:
    """Return the tables of the card in their order."""
    all_tables = [
        _verdicts(result),
        _splits(result),
        *_human(result),
        _halves(result),
        _meaningless(result),
        *_file(result),
        *_on_policy(blocks),
        *_agreement(blocks),
    ]
    return [table for table in all_tables if table.rows]


def markdown(title: str, result: Validation, blocks: Blocks, pictures: Sequence[str]) -> str:
    """Return the whole card as Markdown; `pictures` are file names beside it."""
    parts = [
        f"# {title}",
        INTRODUCTION,
        f"Texts: {', '.join(f'{name} {n}' for name, n in result.corpora.items())}.",
        f"Layers the recipe chose: {', '.join(map(str, result.layers))}.",
    ]
    section = ""
    for table in tables(result, blocks):
        if table.section != section:
            section = table.section
            parts.append(f"## {section}")
        parts.append(f"**{table.title}**")
        parts.append(_markdown_table(table))
        if table.note:
            parts.append(table.note)
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def _verdicts(result: Validation) -> Table:
    rows = []
    for target, evidence in result.evidence.items():
        pair = result.left_out.targets.get(target) if result.left_out else None
        rows.append(
            (
                target,
                result.verdicts[target],
                str(evidence.recipe or NONE),
                two(evidence.words),
                str(pair.difference) if pair else NONE,
                _weakest(result, target),
                str(evidence.held_out),
            )
        )
    columns = (
        "label",
        "verdict",
        "left-out corpora",
        "text alone",
        "difference",
        "weakest of them (text alone)",
        "topics held out",
    )
    return Table(
        "Verdicts",
        "AUROC of each label against all others",
        columns,
        tuple(rows),
        f"{RULE}. The interval is over topics of these corpora, averaged; how far writers differ "
        f"shows in the weakest one. {_leaks(result)}",
    )


def _leaks(result: Validation) -> str:
    if not result.leaks:
        return "No text holds a word of its own label."
    counts = ", ".join(f"{label} {count}" for label, count in result.leaks.items())
    return f"Leaks, texts that hold a word of their own label: {counts}."


def _weakest(result: Validation, target: str) -> str:
    """Return the left-out corpus with a target's smallest lead over the text."""
    pairs = {n: c.targets[target] for n, c in result.each_left_out.items() if target in c.targets}
    if not pairs:
        return NONE
    name = min(pairs, key=lambda n: pairs[n].difference.value)
    return f"{name} {two(pairs[name].model.value)} ({two(pairs[name].words.value)})"


def _splits(result: Validation) -> Table:
    rows = [_split(f"{name}, topics held out", c) for name, c in result.within.items()]
    for train, tests in result.pairs.items():
        rows += [_split(f"{train} → {test}", c) for test, c in tests.items()]
    if result.left_out and len(result.corpora) > 2:
        rows += [_split(f"all others → {name}", c) for name, c in result.each_left_out.items()]
        rows.append(_split("all others → one, mean", result.left_out))
    if result.embeddings:
        rows.append(_split("the same from embeddings alone", result.embeddings))
    return Table(
        "The recipe, on texts it was not fitted on",
        "All labels together: the model, the text alone, chance",
        (
            "fit → test", "texts", "AUROC, model", "text alone", "difference", "length",
            "top-1, model", "text alone", "chance", "layers",
        ),
        tuple(rows),
        "Text alone: the best of TF-IDF with logistic regression and with nearest centroid, "
        "trained on the same texts, and VADER, a lexicon of sentiment. Labels that both sides "
        "have; all scores centred on the texts tested. AUROC chance .50.",
    )  # fmt: skip


def _split(name: str, c: Comparison) -> tuple[str, ...]:
    layers = {layer for each in c.layers for layer in each}
    return (
        name,
        str(c.texts),
        str(c.macro.model),
        str(c.macro.words),
        str(c.macro.difference),
        two(c.length),
        str(c.top1.model),
        str(c.top1.words),
        two(c.top1_chance),
        ", ".join(map(str, sorted(layers))) or NONE,
    )


def _human(result: Validation) -> Iterator[Table]:
    if result.human is None:
        return
    rows = [
        (name, str(pair.model), str(pair.words), str(pair.difference), ".50")
        for name, pair in result.human.targets.items()
    ]
    yield Table(
        "The recipe, on texts it was not fitted on",
        f"Text by people ({result.human.texts} texts), fitted on the corpora only: AUROC",
        ("family", "model", "text alone", "difference", "chance"),
        tuple(rows),
        "Text alone: the best of TF-IDF, trained on the corpora, and VADER, made for such text.",
    )


def _halves(result: Validation) -> Table:
    read, steer = result.halves.read, result.halves.steer
    rows = [(name, str(steer[name]), str(read[name])) for name in steer]
    rows.append(("two random directions", str(result.halves.random), str(result.halves.random)))
    return Table(
        "The recipe, on texts it was not fitted on",
        f"Cosine of directions from topic-disjoint halves ({result.halves.splits} splits)",
        ("label", "steer", "read"),
        tuple(rows),
        "Random directions are drawn in the covariance of the residuals; intervals are the central "
        "95 % of splits and draws.",
    )


def _meaningless(result: Validation) -> Table:
    rows = [
        (f"{name}, labels shuffled", f"AUROC {s.macro:.2f}, top-1 {s.top1:.2f}")
        for name, s in result.shuffled.items()
    ]
    null = result.chance
    for name, spread in (
        ("recipe on shuffled labels, corpora left out", null.left_out),
        ("one file: fitted on shuffled labels", null.shuffled),
        ("one file: random directions", null.isotropic),
        ("one file: random directions in the covariance of residuals", null.covariance),
    ):
        one, mean = (two(NormalDist().cdf(1.96 * s)) for s in (spread.target, spread.macro))
        rows.append((name, f"AUROC up to {one} (one label), {mean} (mean), 95 %"))
    rows.append(
        (
            f"the best of {null.targets} meaningless labels, 95 %",
            f"AUROC {null.recipe:.3f} (recipe), {null.file:.3f} (file)",
        )
    )
    if result.profile:
        best = max(zip(result.profile.areas, result.profile.layers, strict=True))
        level, p = result.profile.level, result.profile.p
        rows.append(
            (
                f"best single layer ({best[1]}): AUROC {best[0]:.3f}",
                f"under permuted labels, 95 %: {level:.3f}; p = {p:.3g}",
            )
        )
    for name, plane in (("the model", result.plane), ("word counts", result.plane_words)):
        rows.append(
            (
                f"|r| of the first component of {name} with the sign of valence",
                f"{plane.correlation:.2f} (permuted signs, 95 %: {plane.chance:.2f})",
            )
        )
    return Table(
        "The recipe, on texts it was not fitted on",
        "What means nothing",
        ("what", "gives"),
        tuple(rows),
    )


def _file(result: Validation) -> Iterator[Table]:
    if result.file:
        yield Table(
            "The file, fitted on everything",
            "AUROC on the texts it was fitted on: shows a wrong file, can never raise a verdict",
            ("label", "AUROC"),
            tuple((target, str(each)) for target, each in result.file.items()),
        )


def _on_policy(blocks: Blocks) -> Iterator[Table]:
    if blocks.on_policy is None:
        return
    measured = blocks.on_policy
    rows = []
    for target, each in measured.labels.items():
        words = each.words[each.better]
        rows.append(
            (
                target,
                f"{each.level:.2f}" + ("" if each.certified else " (not certified)"),
                *(_percent(getattr(each.monitor, k)) for k in ("neutral", "persona", "benign")),
                str(each.monitor.area),
                each.better,
                *(_percent(getattr(words, k)) for k in ("neutral", "persona", "benign")),
                str(_best_area(each.words)),
                ", ".join(f"{k} {v:.2f}" for k, v in each.per_1000.items()),
            )
        )
    counts = ", ".join(f"{n} {kind}" for kind, n in measured.responses.items())
    some = ", ".join(f"{kind} {_percent(e)}" for kind, e in measured.any_label.items())
    yield Table(
        "The file, fitted on everything",
        f"On-policy: shares of the model's own responses that are flagged ({counts}; "
        f"{measured.short} too short for the window left out)",
        (
            "label", "threshold (z)", "neutral", "persona", "benign", "AUROC",
            "text-only", "neutral", "persona", "benign", "AUROC", "crossings per 1,000, neutral",
        ),
        tuple(rows),
        f"Flagged by any label: {some}. Text-only detectors (VADER, TF-IDF trained on the corpora) "
        "see the whole response and flag no more neutral responses than the monitor does; shown is "
        "the one that finds most personas, and the best AUROC. Shares with Wilson intervals. "
        "Thresholds are those the default policy certifies; of labels it does not watch, those of "
        "a policy that names all labels; where none is certified, what 5 % of the neutral "
        "responses reach.",
    )  # fmt: skip


def _best_area(words: dict[str, Flagged]) -> Estimate:
    return max((each.area for each in words.values()), key=lambda e: e.value)


def _agreement(blocks: Blocks) -> Iterator[Table]:
    rows = [
        (
            f"{a.file} / {a.other}",
            str(a.responses),
            f"{a.gap:.3f}",
            f"{a.gap_95:.3f}",
            f"{a.rank:.3f}",
            f"{a.flags:.3f}",
            f"{a.both} of {a.either}",
            f"{a.rerun:.1g}",
        )
        for a in blocks.agreements
    ]
    yield Table(
        "The file, fitted on everything",
        "Other files of the same weights, on the same responses",
        (
            "files", "responses", "|Δz| median", "|Δz| 95 %", "rank r, lowest label",
            "flags agree", "flagged by both", "|Δz| of a rerun",
        ),
        tuple(rows),
        "Each file has a calibration of its own: that in the probe or, where it has none, both one "
        "on the neutral responses among these. A flag lies above the certified threshold where "
        "both files have one, else above what 5 % of the neutral responses reach in that file.",
    )  # fmt: skip
    if blocks.invariance:
        i = blocks.invariance
        padding = NONE if i.padding is None else f"{i.padding:.1g}"
        wanted = " and ".join(f"{each:g}" for each in i.wanted)
        held = "held" if i.holds else "missed"
        yield Table(
            "The file, fitted on everything",
            f"Company a text is read in (wanted: below {wanted}; {held})",
            ("run together or alone, share of ‖h‖", "left-padded or alone, |Δz|"),
            ((f"{i.batch:.2g}", padding),),
        )


def _markdown_table(table: Table) -> str:
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return NONE
    return f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def two(value: float) -> str:
    """Return a number with two decimals, or a dash for none."""
    return f"{value:.2f}" if math.isfinite(value) else NONE
