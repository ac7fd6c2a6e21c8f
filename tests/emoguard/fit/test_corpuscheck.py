"""What is wrong with files of texts and prompts is found by file and line, all of it at once."""

import json

import pytest

from emoguard.fit import corpora, duplicates
from emoguard.fit.corpora import Label
from emoguard.fit.corpuscheck import check_corpora, check_labels, check_neutral, check_prompts

LABELS = [Label("glum", ("glum",), -1), Label("merry", ("merry",), 1)]


def good(name="a", count=15):
    return [
        {"emotion": label.name, "topic": f"t{n % 5}", "text": f"{name} {n} is {label.name[::-1]}."}
        for n in range(count)
        for label in LABELS
    ]


def write(path, records):
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"\n".join(lines))
    return str(path)


def check(*paths):
    return check_corpora([str(path) for path in paths], LABELS)


def test_nothing_is_found_in_good_corpora(tmp_path):
    a, b = write(tmp_path / "a.jsonl", good()), write(tmp_path / "b.jsonl", good("b"))
    assert check(a, b) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"not json", "wanted a JSON object with emotion, topic and text, all strings, got 'not j"),
        (b'{"label": "glum", "content": "a b"}', "got one with the keys label, content"),
        (b'{"emotion": "glum", "text": ""}', "the text is empty"),
        (b'{"emotion": "glum", "text": "woe"}', "the text is one word, woe"),
        (b'{"emotion": "glum", "topic": NaN, "text": "a b"}', "NaN is not a number of JSON"),
        (b'{"emotion": "glum", "topic": null, "text": "a b"}', "got None as topic"),
        (b'{"emotion": "glum", "text": "caf\xe9 b"}', "wanted UTF-8, got other bytes"),
        ('{"text": "a b"}'.encode("utf-16"), "looks like UTF-16"),
        (b'{"emotion": "glum", "text": "' + b"a " * 10_001 + b'"}', "has 20,002 characters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_line_is_found_wherever_it_stands_and_the_others_are_looked_at(
    tmp_path, line, sentence
):
    records = good()
    path = write(tmp_path / "a.jsonl", [*records[:4], line, *records[4:8], b"{}", *records[8:]])
    fatal = [
        finding for finding in check(path, write(tmp_path / "b.jsonl", good("b"))) if finding.fatal
    ]
    assert [finding.place for finding in fatal] == [f"{path}:5", f"{path}:10"]
    assert sentence in fatal[0].sentence


def test_a_line_without_end_and_a_file_that_is_not_there_are_found(tmp_path):
    path = write(tmp_path / "a.jsonl", [*good(), b"x" * (2**20 + 1)])
    (finding, *_) = check(path)
    assert finding.fatal
    assert "got more in line 31" in finding.sentence
    (finding, *_) = check(tmp_path / "none.jsonl")
    assert "cannot be read" in finding.sentence
    empty = write(tmp_path / "empty.jsonl", [])
    for found in (check(write(tmp_path / "b.jsonl", good()), empty), check_neutral([empty])):
        assert f"{empty}: holds no texts" in [f"{f.place}: {f.sentence[:14]}" for f in found]


def test_more_words_than_can_be_remembered_cost_no_other_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_RUNS", 40)
    long = [{**each, "text": f"{each['text']} " * 5} for each in good()]
    path = write(tmp_path / "a.jsonl", [b"{}", *long])
    findings = check(path)
    assert findings[0].place == f"{path}:1"
    assert any("near-duplicates are not looked for from here on" in f.sentence for f in findings)


def test_repeated_texts_are_found_within_and_between_corpora(tmp_path):
    texts = good()
    a = write(tmp_path / "a.jsonl", [*texts, texts[0], {**texts[1], "emotion": "glum"}])
    b = write(tmp_path / "b.jsonl", [*good("b"), texts[2]])
    findings = {finding.place: finding for finding in check(a, b)}
    assert not findings[f"{a}:31"].fatal
    assert "left out: line 31" in findings[f"{a}:31"].sentence
    assert findings[f"{a}:32"].fatal
    assert f"{a}:2 again, here glum and there merry" in findings[f"{a}:32"].sentence
    assert findings[f"{b}:31"].fatal
    assert f"the text of {a}:3 again: neither" in findings[f"{b}:31"].sentence


def test_a_text_is_counted_once_as_by_a_fit(tmp_path):
    texts = [{"text": f"a b {n}"} for n in range(15)]
    (same, few) = check_neutral([write(tmp_path / "n.jsonl", [*texts, {"text": "A  b 3"}])])
    assert not same.fatal
    assert few.fatal
    assert "at least 16 neutral texts, each counted once, got 15" in few.sentence
    merry = [record for record in good() if record["emotion"] == "merry"]
    glum = {"emotion": "glum", "topic": "t0", "text": "It rains."}
    fatal = [f for f in check(write(tmp_path / "a.jsonl", [*merry, *[glum] * 10])) if f.fatal]
    assert [finding.place for finding in fatal] == ["glum"]
    assert "each counted once, got 1" in fatal[0].sentence


def test_topics_of_which_none_can_be_held_out_are_a_fault(tmp_path):
    texts = [{**each, "topic": f"{each['emotion']} {each['topic']}"} for each in good()]
    a = write(tmp_path / "a.jsonl", texts)
    assert not any(finding.fatal for finding in check(a))
    own = {"glum": ("a", "d"), "merry": ("b", "c")}
    texts = [{**each, "topic": own[each["emotion"]][n % 4 // 2]} for n, each in enumerate(texts)]
    (fault,) = [finding for finding in check(write(tmp_path / "a.jsonl", texts)) if finding.fatal]
    assert fault.place == a
    assert "layers cannot be chosen" in fault.sentence
    assert not any(f.fatal for f in check(a, write(tmp_path / "b.jsonl", good("b"))))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (LABELS[:1], "name two at least"),
        ([*LABELS, Label("valence", ("x",), 1)], "valence is the axis"),
        ([*LABELS, Label("b\n", ("x",), 1)], "printable characters"),
    ],
)
def test_labels_that_no_probe_can_have_are_a_fault(labels, sentence):
    assert check_labels("l.json", LABELS) == []
    (fault,) = check_labels("l.json", labels)
    assert (fault.place, fault.fatal) == ("l.json", True)
    assert sentence in fault.sentence


def test_near_duplicates_are_named_once_per_file(tmp_path):
    long = "One two three four five six seven eight nine ten"
    more = [
        {"emotion": "glum", "topic": "t1", "text": f"{long} {word}."} for word in ("a", "b", "c")
    ]
    a = write(tmp_path / "a.jsonl", [*good(), *more[:2]])
    b = write(tmp_path / "b.jsonl", [*good("b"), more[2]])
    near = [finding for finding in check(a, b) if "nearly" in finding.sentence]
    assert [finding.place for finding in near] == [f"{a}:32", f"{b}:31"]
    assert all(f"nearly the text of {a}:31" in finding.sentence for finding in near)
    assert not any(finding.fatal for finding in near)


def test_a_leak_is_reported_with_its_lines(tmp_path):
    texts = good()
    texts[4]["text"] += " Such glumness."
    a, b = write(tmp_path / "a.jsonl", texts), write(tmp_path / "b.jsonl", good("b"))
    (finding,) = check(a, b)
    assert finding.place == f"{a}:5"
    assert finding.sentence.startswith("leak: 1 of 15 texts of glum hold a word of that label")


def test_a_label_of_one_corpus_or_few_texts_is_named(tmp_path):
    texts = good()
    a = write(tmp_path / "a.jsonl", texts)
    b = write(tmp_path / "b.jsonl", [r for r in good("b") if r["emotion"] == "glum"])
    findings = [finding for finding in check(a, b) if finding.place == "merry"]
    assert not any(finding.fatal for finding in findings)
    few, alone = (finding.sentence for finding in findings)
    assert few == "few texts: 30 of a label are few already"
    assert "the verdict will be untested" in alone
    findings = [
        finding for finding in check(write(tmp_path / "c.jsonl", texts[:10])) if finding.fatal
    ]
    assert [finding.place for finding in findings] == ["glum", "merry"]
    assert "at least 10 texts in one corpus, each counted once, got 5" in findings[0].sentence


def test_labels_that_differ_in_length_or_topics_are_named(tmp_path):
    texts = good()
    for record in texts:
        if record["emotion"] == "merry":
            record["topic"] = "t0"
            record["text"] += f" {record['text']}"
    sentences = [f.sentence for f in check(write(tmp_path / "a.jsonl", texts))]
    assert any("merry: texts of less than half of the 5 topics" in s for s in sentences)
    assert any(s.startswith("texts of merry have") and "length alone" in s for s in sentences)


def test_emotions_that_no_label_means_and_broken_letters_are_named(tmp_path):
    texts = [*good(), {"emotion": "bored", "text": "a b"}, {"text": "Ã¼ber all"}]
    b = write(tmp_path / "b.jsonl", good("b"))
    findings = check(write(tmp_path / "a.jsonl", texts), b)
    assert not any(finding.fatal for finding in findings)
    sentences = [finding.sentence for finding in findings]
    assert any("left out (bored 1)" in s for s in sentences)
    assert any("without an emotion" in s for s in sentences)
    assert any("looks like UTF-8 that was read as another encoding" in s for s in sentences)
    only = write(tmp_path / "c.jsonl", [{"emotion": "bored", "text": "a b"}])
    assert any("an emotion among glum, merry, got none" in f.sentence for f in check(only))


def test_neutral_texts_are_counted_and_have_no_emotion(tmp_path):
    texts = [{"text": f"a b {n}"} for n in range(16)]
    assert check_neutral([write(tmp_path / "n.jsonl", texts)]) == []
    path = write(tmp_path / "m.jsonl", [*texts[:14], {"emotion": "glum", "text": "a b"}])
    loud, few = check_neutral([path])
    assert (loud.place, loud.fatal) == (f"{path}:15", False)
    assert few.fatal
    assert "at least 16 neutral texts, each counted once, got 15" in few.sentence


def test_prompts_are_counted_once_each(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("".join(f"How {n}?\n" for n in range(600)))
    assert check_prompts(str(path)) == []
    path.write_text("".join(f"How {n % 8}?\n" for n in range(9)))
    repeated, few = check_prompts(str(path))
    assert "1 prompts repeat others" in repeated.sentence
    assert "certified from 600 responses on" in few.sentence
    assert not few.fatal
    path.write_text("".join(f"How {n % 7}?\n" for n in range(9)))
    _, few = check_prompts(str(path))
    assert few.fatal
    assert few.sentence == "a calibration needs at least 8 prompts, got 7"
    path.write_text("")
    assert check_prompts(str(path))[0].fatal


def test_the_packages_own_files_have_nothing_wrong():
    assert check_corpora([str(p) for p in corpora.own()], corpora.default_labels()) == []
    assert check_neutral([str(p) for p in corpora.own_neutrals()]) == []
