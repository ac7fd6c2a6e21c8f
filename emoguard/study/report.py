"""Writes the report of a study in Markdown, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emoguard.study.printed import NONE, between, interval, number, p_value, points, table

CAUTION = (
    "What is measured here holds for this model file. Nothing of it transfers to larger models: "
    "repeat it there. A direction is not a feeling."
)
TRACKS = (
    "Three tracks, never merged: R, does the direction exist; C, does moving it, and nothing else, "
    "move what is expressed; S, what else moves. R licenses no claim of C or S."
)
PART = (
    "**The run is not complete: these are the results of a part of it, and no claim is tested on "
    "a part.**"
)

Results = Mapping[str, Any]


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """Return the report; `pictures` are file names beside it."""
    about = results["about"]
    parts = [
        f"# Study: {about['protocol']['name']}",
        _subject(about),
        *([] if about.get("complete", True) else [PART]),
        f"**{results['verdict']}**",
        CAUTION,
        TRACKS,
        *(f"![{name.removesuffix('.png').replace('-', ' ')}]({name})" for name in pictures),
        *_reproducible(results),
        *_causal(results),
        *_safety(results),
        *_contrasts(results),
        *_repeat(results),
    ]
    return "\n\n".join(parts) + "\n"


def _subject(about: Mapping[str, Any]) -> str:
    model, kind = about.get("model", "a model"), about.get("quantisation", "?")
    return f"{model} ({kind}) in {about.get('runtime', '?')}, probe {about.get('probe', '?')}."


def _reproducible(results: Results) -> Iterator[str]:
    yield "## R: does the direction exist?"
    yield (
        "Verdicts of the probe's validation; its card has the figures. They say whether a label "
        "can be read from texts it was not fitted on, and nothing about what steering it does."
    )
    yield table(("label", "verdict"), results["reproducible"].items())


def _causal(results: Results) -> Iterator[str]:
    causal, pilot = results["causal"], results["pilot"]
    yield "## C: does moving it move what is expressed?"
    yield (
        f"Dose {pilot['dose']:g} of the reference norm, all layers together, frozen on the pilot "
        "before any item of S was asked. An answer expresses a label when a judge of its text "
        "scores it above what one in five unsteered answers of the pilot reach; an incoherent one "
        f"has failed. The primary judge is the {causal['primary']}."
    )
    for label, judges in causal["effects"].items():
        yield from _attribution(label, judges, causal["primary"])
    if causal["nulls"]:
        yield from _nulls(causal["nulls"])
    if causal["curves"]:
        yield from _curves(causal["curves"], causal["primary"])
    if causal["necessity"]:
        yield from _necessity(causal["necessity"])
    yield from _judges(causal["judges"])


def _attribution(label: str, judges: Mapping[str, Any], primary: str) -> Iterator[str]:
    yield f"### {label}: what prompt, sampling and vector each change"
    names = [name for name in judges if name not in {"realised", "tokens"}]
    if not names:
        yield "No answers were made."
        return
    names.sort(key=lambda name: name != primary)
    rows = [
        (
            effect,
            *(points(judges[name]["effects"][effect]["all"]["estimate"]) for name in names),
            points(judges[names[0]]["effects"][effect]["coherent"]["estimate"]),
            points(judges[names[0]]["corrected"].get(effect)),
            p_value(judges[names[0]]["effects"][effect]["all"].get("p, adjusted")),
        )
        for effect in judges[names[0]]["effects"]
    ]
    yield table(
        (
            "effect, points [95 %]",
            *names,
            f"{names[0]}, coherent only",
            "corrected for its errors",
            "p (BH)",
        ),
        rows,
    )
    own = judges[names[0]]
    vector = own["effects"]["vector"]
    whole, coherent = (vector[some]["items"] for some in ("all", "coherent"))
    lines = [f"{whole} prompts; {coherent} have no incoherent answer with the vector or without."]
    lines += _share(own["share of prompt"])
    value, low, high = judges["tokens"]["estimate"]
    if low is not None and high is not None:
        change = f"{value:+.1f} tokens [{low:+.1f}, {high:+.1f}]"
        lines.append(f"The vector changes the length of answers by {change}.")
    realised = judges["realised"]
    if realised:
        doses = ", ".join(f"{name} {value:.3f}" for name, value in realised.items())
        lines.append(f"Realised dose, median over tokens: {doses}.")
    pairing = ", ".join(f"{name} {number(value)}" for name, value in own["pairing"].items())
    lines.append(f"Correlation of steered with unsteered answers: {pairing}.")
    yield " ".join(lines)


def _share(share: Sequence[float | None] | None) -> Iterator[str]:
    """Yield the vector's effect as a share of the persona's, if that is one to be a share of."""
    if share is None:
        return
    value, low, high = share
    if value is None or low is None or high is None:
        yield "The persona alone does nothing measurable that the vector could be compared with."
    else:
        yield f"The vector does {value:.0%} [{low:.0%}, {high:.0%}] of what the persona does."


def _nulls(nulls: Mapping[str, Any]) -> Iterator[str]:
    yield "### Random directions"
    matched, random = nulls["matched"], nulls["realised, random"]
    short = nulls["directions"] - nulls.get("reached", nulls["directions"])
    yield (
        f"{nulls['directions']} directions drawn in the covariance of the residuals, each at the "
        f"dose whose realised dose is that of the labels (matched to {matched[1]:.1%} to "
        f"{matched[2]:.1%} of it; in the run, median {random[0]:.3f})."
        + (f" {short} of them cannot reach it within the bound, and count in no p." * bool(short))
    )
    rows = [
        (
            label,
            judge,
            points(each["observed"]),
            between(each["random"]),
            p_value(each["p"]),
            between(each["same divergence"]),
            p_value(each["p, same divergence"]),
        )
        for label, judges in nulls.items()
        if isinstance(judges, dict)
        for judge, each in judges.items()
        if isinstance(each, dict)
    ]
    yield table(
        (
            "label", "judge", "effect, points", "random, central 95 %", "unadjusted p",
            "random of equal divergence", "unadjusted p",
        ),
        rows,
    )  # fmt: skip


def _curves(curves: Mapping[str, Any], primary: str) -> Iterator[str]:
    yield "### Dose curves (exploratory)"
    rows = []
    for label, each in curves.items():
        own = each[primary]
        for n, dose in enumerate(each["doses"]):
            if not dose:
                continue
            reading = each["reading"][n]
            rows.append(
                (
                    label,
                    f"{dose:+g}",
                    points(own["effects"][n]),
                    number(reading["ratio"]),
                    f"{reading['repetition']:+.2f}",
                    f"{reading['failed']:+.0%}" if "failed" in reading else NONE,
                    reading["regime"],
                )
            )
    yield table(
        (
            "label",
            "dose",
            "effect, points",
            "perplexity ratio",
            "repetition",
            "incoherent",
            "regime",
        ),
        rows,
    )
    fits = [
        (
            label,
            each[primary]["fit"]["shape"],
            f"{each[primary]['fit']['slope']:+.2f}",
            f"{each[primary]['fit']['curvature']:+.2f}",
            f"{each[primary]['fit']['monotone']:+.2f}",
        )
        for label, each in curves.items()
    ]
    yield table(("label", "better fit", "slope", "curvature", "rank correlation with dose"), fits)


def _necessity(necessity: Mapping[str, Any]) -> Iterator[str]:
    yield "### Necessity (exploratory)"
    yield "What the persona does, and by how much less where the direction is held meanwhile."
    rows = [
        (label, name, points(each["estimate"]), p_value(each.get("p, adjusted")))
        for label, by in necessity.items()
        for name, each in by.items()
    ]
    yield table(("label", "change", "points [95 %]", "p (BH)"), rows)


def _judges(judges: Mapping[str, Any]) -> Iterator[str]:
    yield "### Judges against labels by hand"
    rows = []
    for label, by in judges["hand"].items():
        rows += [(f"expresses {label}", name, *_agreement(each)) for name, each in by.items()]
    rows += [
        ("goes along with a false premise", "patterns", *_agreement(judges["premise"])),
        ("refuses", "patterns", *_agreement(judges["refusal"])),
    ]
    columns = ("verdict", "judge", "answers", "sensitivity", "specificity", "κ", "AC1", "use")
    yield table(columns, rows)
    between_judges = [
        (label, names, number(each["kappa"]), number(each["ac1"]))
        for label, by in judges["between"].items()
        for names, each in by.items()
    ]
    if between_judges:
        yield table(("label", "judges", "κ", "AC1"), between_judges)
    chosen = judges["premise, written against chosen"]
    if chosen:
        yield (
            f"Written answers and forced choice agree on {chosen['items']} false premises with κ "
            f"{number(chosen['kappa'])}, AC1 {number(chosen['ac1'])}."
        )


def _agreement(each: Mapping[str, Any] | None) -> tuple[str, ...]:
    if each is None:
        return (NONE,) * 6
    return (
        str(each["items"]),
        interval(each["sensitivity"]),
        interval(each["specificity"]),
        number(each["kappa"]),
        number(each["ac1"]),
        "exploratory" if each["exploratory"] else "confirmatory",
    )


def _safety(results: Results) -> Iterator[str]:
    yield "## S: what else moves?"
    yield (
        "Forced choice, greedy. Changes in points against the same questions without prompt and "
        "vector; no harm is claimed only where a test of the margin says so."
    )
    rows = []
    for outcome, each in results["safety"].items():
        rows += _outcome(outcome, each)
        if "all items" in each:
            rows += _outcome(f"{outcome}, all items", each["all items"])
    columns = (
        "outcome", "pairs", "unsteered", "manipulation", "change", "discordant", "p (BH)",
        "margin", "p of no harm", "pairs needed",
    )  # fmt: skip
    yield table(columns, rows) if rows else "Nothing was asked."
    detection = results["safety"].get("premise", {}).get("detection")
    if detection:
        yield "Telling true premises from false ones: d', and bias c (negative: says yes to both)."
        cells = [
            (key.replace("|", ", "), f"{v['d']:.2f}", f"{v['c']:+.2f}")
            for key, v in detection.items()
        ]
        yield table(("prompt, sampling, vector", "d'", "c"), cells)
    yield from _safety_nulls(results)


def _safety_nulls(results: Results) -> Iterator[str]:
    """Yield each label's change beside those of random directions of the same realised dose."""
    wanted = results["about"]["protocol"]["safety"].get("directions", 0)
    if not wanted:
        return
    yield "### What random directions of the same realised dose move (exploratory)"
    safety = results["safety"]
    everything = {
        **safety,
        **{f"{key}, all items": each["all items"] for key, each in safety.items()
           if "all items" in each},
    }  # fmt: skip
    rows = [
        (
            outcome,
            label,
            points(among["observed"]),
            between(among["random"]),
            str(len(among["effects"])),
            p_value(among["p"]),
        )
        for outcome, each in everything.items()
        for label, among in each.get("among random", {}).items()
    ]
    yield (
        f"{wanted} random directions were to be asked; those that cannot reach the labels' dose "
        "within the bound are not."
    )
    if rows:
        yield table(
            (
                "outcome",
                "label",
                "its change",
                "random, central 95 %",
                "directions",
                "unadjusted p",
            ),
            rows,
        )


def _outcome(outcome: str, each: Mapping[str, Any]) -> list[tuple[str, ...]]:
    unsteered = each["rates"].get("none|greedy|zero")
    rows: list[tuple[str, ...]] = []
    for label, by in each.items():
        if not isinstance(by, dict) or "vector" not in by:
            continue
        for name, effect in by.items():
            within = effect["no harm"]
            rows.append(
                (
                    outcome,
                    str(effect["items"]),
                    interval(unsteered) if unsteered else NONE,
                    f"{label}: {name}",
                    points(effect["estimate"]),
                    f"{effect['discordance']:.0%}",
                    p_value(effect.get("p, adjusted")),
                    f"{'±' if within['both'] else '+'}{within['margin']:.0%}",
                    p_value(within["p"]),
                    str(within["needed"]),
                )
            )
    return rows


def _contrasts(results: Results) -> Iterator[str]:
    yield "## Claims named before the run"
    rows = [
        (
            each["name"],
            points(each["estimate"]),
            str(each["items"]),
            p_value(each["p"]),
            p_value(each["adjusted"]),
            each["verdict"],
            each["why"],
        )
        for each in results["contrasts"]
    ]
    columns = ("claim", "points [95 %]", "items", "p", "p (Holm)", "verdict", "why")
    yield table(columns, rows) if rows else "None."


def _repeat(results: Results) -> Iterator[str]:
    about = results["about"]
    yield "## Repeat it"
    command = about.get("command", "emoguard study PROTOCOL.yaml --model MODEL --out FOLDER")
    yield f"```\n{command}\n```"
    seconds = sum(about["seconds"].values())
    estimated = about.get("estimated seconds")
    digests = (
        f"Protocol {about['protocol digest'][:16]}, records {about['records digest'][:16]}, model "
        f"file {about.get('identity', '?')[:16]}, seed {about['protocol']['seed']}."
    )
    lines = [digests]
    took = f"{about['records']} records in {seconds / 3600:.2f} CPU hours"
    lines.append(f"{took} ({estimated / 3600:.2f} were estimated)." if estimated else f"{took}.")
    yield " ".join(lines)
    yield (
        "On a model of your own, fit and calibrate a probe first (`emoguard fit`), then give it by "
        "`--probe`. An 8B model wants a GPU; the protocol stays the same."
    )
