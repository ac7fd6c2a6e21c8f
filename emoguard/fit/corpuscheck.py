"""Finds faults in files of texts, labels and prompts, before any model reads them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emoguard import regularfile
from emoguard.errors import EmoGuardError
from emoguard.fit import corpora, requirements
from emoguard.fit.cautions import FEW
from emoguard.fit.corpora import Label, Text
from emoguard.fit.duplicates import Duplicates
from emoguard.fit.leaks import leaks
from emoguard.fit.requirements import LEAST_NEUTRAL
from emoguard.fit.scope import Scope
from emoguard.probe.calibration import FEWEST_RESPONSES
from emoguard.probe.certificate import ENOUGH_RESPONSES

LEAST_LABELLED = 10
"""Texts of a label, in one corpus, that a validation needs."""

LENGTHS = 1.5
"""Ratio of mean lengths from which on length alone tells labels apart."""

MOJIBAKE = re.compile("Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]|\ufffd")
"""UTF-8 that was read as Latin-1 or Windows-1252, and the replacement character."""


@dataclass(frozen=True)
class Finding:
    """Something about a file that a user should know; `place` is the file, or file:line.

    A `fatal` one is refused by `emoguard fit` or `emoguard validate`.
    """

    place: str
    sentence: str
    fatal: bool = False


def check_corpora(paths: Sequence[str], labels: Sequence[Label]) -> list[Finding]:
    """Return findings on corpora of labelled texts: on single lines, then on whole corpora."""
    everything: list[Finding] = []
    whole: list[list[Text]] = []
    for path in paths:
        findings, texts = _lines(path)
        everything += findings
        everything += _emotions(path, texts, labels)
        whole.append(_labelled(texts, labels))
        everything += _repeats(whole[-1])
        everything += _topics(path, whole[-1])
        everything += _lengths(path, whole[-1])
        everything += _leaks(whole[-1], labels)
    every = [text for texts in whole for text in texts]
    once = [_once(texts) for texts in whole]
    counts = list(_counts(once, labels))
    everything += [*_between(whole), *_nearly(every), *counts]
    if not any(finding.fatal for finding in counts):
        everything += _held_out(paths, once)
    return everything


def check_neutral(paths: Sequence[str]) -> list[Finding]:
    """Return findings on files of neutral texts."""
    everything: list[Finding] = []
    count = 0
    for path in paths:
        findings, texts = _lines(path)
        everything += [*findings, *_repeats(texts)]
        count += len(_once(texts))
        if loud := [text for text in texts if text.label]:
            everything.append(
                Finding(
                    loud[0].place,
                    f"the first of {len(loud):,} neutral texts with an emotion ({loud[0].label}): "
                    "it is not looked at here",
                )
            )
    if count < LEAST_NEUTRAL:
        sentence = (
            f"a fit needs at least {LEAST_NEUTRAL} neutral texts, each counted once, got {count}"
        )
        everything.append(Finding(", ".join(paths), sentence, fatal=True))
    return everything


def check_labels(place: str, labels: Sequence[Label]) -> list[Finding]:
    """Return findings on labels; `place` is their file, or their names."""
    try:
        requirements.check_labels(labels)
    except EmoGuardError as error:
        return [Finding(place, str(error), fatal=True)]
    return []


def check_prompts(path: str) -> list[Finding]:
    """Return findings on a file of prompts, one per line."""
    try:
        prompts = corpora.read_prompts(path)
        lines = [line for line in map(str.strip, regularfile.lines(path)) if line]
    except EmoGuardError as error:
        return [Finding(path, str(error), fatal=True)]
    findings = []
    if repeated := len(lines) - len(prompts):
        findings.append(Finding(path, f"{repeated:,} prompts repeat others: each is asked once"))
    if len(prompts) < FEWEST_RESPONSES:
        sentence = f"a calibration needs at least {FEWEST_RESPONSES} prompts, got {len(prompts)}"
        findings.append(Finding(path, sentence, fatal=True))
    elif len(prompts) < ENOUGH_RESPONSES:
        findings.append(
            Finding(
                path,
                f"{len(prompts):,} prompts: alarm thresholds are certified from "
                f"{ENOUGH_RESPONSES} responses on, one to a prompt",
            )
        )
    return findings


def _lines(path: str) -> tuple[list[Finding], list[Text]]:
    """Return the findings about single lines, and the texts of the lines that can be used."""
    findings: list[Finding] = []
    texts: list[Text] = []
    try:
        for number, raw in enumerate(regularfile.raw_lines(path), 1):
            place = f"{path}:{number}"
            try:
                line = regularfile.decoded(raw, number)
                if line.strip():
                    texts.append(corpora.parse(line, place))
            except OSError:
                findings.append(Finding(place, _encoding(raw), fatal=True))
            except EmoGuardError as error:
                findings.append(Finding(place, str(error).removeprefix(f"{place}: "), fatal=True))
    except OSError as error:
        findings.append(Finding(path, f"cannot be read: {error.strerror}", fatal=True))
    if not (texts or findings):
        findings.append(Finding(path, "holds no texts: write one a line", fatal=True))
    for text in texts:
        if mark := MOJIBAKE.search(text.text):
            sentence = f"{mark.group()!r} looks like UTF-8 that was read as another encoding"
            findings.append(Finding(text.place, sentence))
    return findings, texts


def _encoding(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        return "wanted UTF-8, got what looks like UTF-16: save the file as UTF-8"
    return "wanted UTF-8, got other bytes: save the file, or this line of it, as UTF-8"


def _labelled(texts: Sequence[Text], labels: Sequence[Label]) -> list[Text]:
    meaning = {word: label.name for label in labels for word in label.words}
    return [
        Text(meaning[text.label], text.topic, text.text, text.place)
        for text in texts
        if text.label in meaning
    ]


def _emotions(path: str, texts: Sequence[Text], labels: Sequence[Label]) -> Iterator[Finding]:
    known = {word for label in labels for word in label.words}
    others = Counter(text.label for text in texts if text.label not in known)
    if others.pop("", 0):
        first = next(text for text in texts if not text.label)
        yield Finding(first.place, "the first text without an emotion: it is left out")
    if others:
        listed = ", ".join(f"{emotion} {n}" for emotion, n in others.most_common(8))
        yield Finding(path, f"texts of emotions that no label means are left out ({listed})")
    if texts and not known & {text.label for text in texts}:
        sentence = f"wanted texts with an emotion among {', '.join(sorted(known))}, got none"
        yield Finding(path, sentence, fatal=True)


def _repeats(texts: Sequence[Text]) -> Iterator[Finding]:
    same = []
    for before, text in corpora.repeated(texts):
        if sentence := corpora.contradiction(before, text):
            yield Finding(text.place, sentence, fatal=True)
        else:
            same.append(text)
    if same:
        sentence = f"texts that stand before it already are left out: {_places(same)}"
        yield Finding(same[0].place, sentence)


def _once(texts: Sequence[Text]) -> list[Text]:
    """Return the texts that repeat no earlier one, as a fit reads them."""
    again = {id(text) for _, text in corpora.repeated(texts)}
    return [text for text in texts if id(text) not in again]


def _held_out(paths: Sequence[str], once: Sequence[Sequence[Text]]) -> Iterator[Finding]:
    """Find topics of which none can be held out; texts are taken as a fit takes them."""
    try:
        requirements.check_topics([corpora.balanced(texts, Scope().texts) for texts in once])
    except EmoGuardError as error:
        yield Finding(", ".join(paths), str(error), fatal=True)


def _between(whole: Sequence[Sequence[Text]]) -> Iterator[Finding]:
    """Find texts that corpora share: neither can then test directions fitted on the other."""
    for before, text in corpora.repeated([text for texts in whole for text in texts]):
        if _file(before) != _file(text):
            sentence = f"the text of {before.place} again: neither corpus tests the other with it"
            yield Finding(text.place, sentence, fatal=True)


def _nearly(texts: Sequence[Text]) -> Iterator[Finding]:
    """Find near-duplicates, within corpora and between them; one finding per file."""
    exact = {text.place for _, text in corpora.repeated(texts)}
    known, near = Duplicates(), defaultdict(list)
    for text in texts:
        number = known.of(text.text)
        try:
            known.add(text.text)
        except EmoGuardError:
            sentence = "near-duplicates are not looked for from here on: there are too many words"
            yield Finding(text.place, sentence)
            break
        if number is not None and text.place not in exact:
            near[_file(text)].append((texts[number], text))
    for pairs in near.values():
        (before, first), *_ = pairs
        listed = _places([text for _, text in pairs])
        sentence = f"nearly the text of {before.place}; such near-duplicates: {listed}"
        yield Finding(first.place, sentence)


def _file(text: Text) -> str:
    return text.place.rpartition(":")[0]


def _places(texts: Sequence[Text]) -> str:
    """Return the lines of some texts of one file, the first ten of them."""
    listed = ", ".join(text.place.rpartition(":")[2] for text in texts[:10])
    more = f", … ({len(texts):,} in all)" if len(texts) > 10 else ""
    return f"line{'s' if len(texts) > 1 else ''} {listed}{more}"


def _topics(path: str, texts: Sequence[Text]) -> Iterator[Finding]:
    topics: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        topics[text.label].add(text.topic)
    every = set().union(*topics.values()) if topics else set()
    if len(every) < 2:
        return
    uncrossed = [label for label, some in topics.items() if len(some) * 2 < len(every)]
    if uncrossed:
        yield Finding(
            path,
            f"{', '.join(sorted(uncrossed))}: texts of less than half of the {len(every)} topics; "
            "where topics differ between labels a direction may be that of a topic",
        )


def _lengths(path: str, texts: Sequence[Text]) -> Iterator[Finding]:
    sizes: dict[str, list[int]] = defaultdict(list)
    for text in texts:
        sizes[text.label].append(len(text.text))
    means = {label: sum(each) / len(each) for label, each in sizes.items()}
    if len(means) < 2:
        return
    short, long = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    if means[long] > LENGTHS * means[short]:
        yield Finding(
            path,
            f"texts of {long} have {means[long]:.0f} characters on average, those of {short} "
            f"{means[short]:.0f}: length alone tells them apart",
        )


def _leaks(texts: Sequence[Text], labels: Sequence[Label]) -> Iterator[Finding]:
    for name, some in leaks(texts, labels).items():
        total = sum(text.label == name for text in texts)
        yield Finding(
            some[0].place,
            f"leak: {len(some)} of {total} texts of {name} hold a word of that label "
            f"({_places(some)}): its direction may be that of the word",
        )


def _counts(whole: Sequence[Sequence[Text]], labels: Sequence[Label]) -> Iterator[Finding]:
    counts = [Counter(text.label for text in texts) for texts in whole]
    each = {label.name: [count[label.name] for count in counts] for label in labels}
    for name, some in each.items():
        if max(some) < LEAST_LABELLED:
            listed = ", ".join(map(str, some))
            sentence = (
                f"wanted at least {LEAST_LABELLED} texts in one corpus, each counted once, "
                f"got {listed}"
            )
            yield Finding(name, sentence, fatal=True)
    few = [name for name, some in each.items() if max(some) >= LEAST_LABELLED and sum(some) < FEW]
    if few:
        yield Finding(", ".join(few), f"few texts: {FEW} of a label are few already")
    alone = [name for name, some in each.items() if sum(n > 0 for n in some) == 1]
    if alone:
        yield Finding(", ".join(alone), "in one corpus alone: the verdict will be untested")
