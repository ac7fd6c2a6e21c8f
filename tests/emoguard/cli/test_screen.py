"""What a terminal gets, in every encoding, and what is typed or piped in."""

import io
import json
import os
import subprocess
import sys

import click
import pytest
from rich.table import Table
from rich.text import Text

from emoguard.cli import bars as bars_module
from emoguard.cli.bars import Bars, follow
from emoguard.cli.screen import Screen, say
from emoguard.cli.typed import piped, typed

HOSTILE = "\x1b[2J\x9b31m\x07\x00\u202e[bold]x[/bold]\r"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "utf-16"])
def test_nothing_that_a_file_brings_rewrites_the_screen_or_ends_in_a_traceback(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    screen = Screen(file=stream, force_terminal=True, color_system="truecolor")
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "red"))
    table.add_row("😀 ━┿─")
    screen.print(table)
    screen.print(HOSTILE, style="bold")
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "\x1b[31m" in text, "colours are ours"
    assert "[bold]x[/bold]" in text
    for bad in ("\x1b[2J", "\x9b", "\x07", "\x00", "\u202e", "\r"):
        assert bad not in text
    assert encoding.startswith("utf") == ("━┿─" in text)
    assert encoding.startswith("utf") or "=|-" in text


def test_a_line_said_has_no_control_characters(capsys):
    say(HOSTILE)
    say(HOSTILE, err=True)
    for text in capsys.readouterr():
        assert text == "\ufffd[2J\ufffd31m\ufffd\ufffd\ufffd[bold]x[/bold]\ufffd\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_command_ends_well_on_every_terminal(encoding):
    code = "import sys; from emoguard.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "show"],
        env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"smollm2" in done.stdout


@pytest.mark.parametrize(
    ("data", "text", "is_said"),
    [
        ("café\n".encode(), "café\n", False),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "café", False),
        ("café".encode("latin-1"), "café", True),
        ("“café”".encode("cp1252"), "“café”", True),
        (b"\x81\xff", "\ufffdÿ", True),
    ],
)
def test_piped_input_is_text_in_any_encoding(data, text, is_said, capsys):
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    assert piped(stream) == text
    argument = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    assert typed(None, click.Argument(["prompt"]), argument) == text
    assert capsys.readouterr().err.count("is not UTF-8: read as cp1252") == 2 * is_said


def test_piped_text_without_bytes_behind_it_is_taken_as_it_is():
    assert piped(io.StringIO("x")) == "x"


def test_without_a_terminal_there_is_a_line_a_minute(capsys):
    clock = [0.0]
    with Bars(lambda: clock[0]) as progress:
        show = follow(progress)
        for done in range(181):
            show("reading", done, 180)
            clock[0] += 1
        task = progress.add_task("computing", total=None)
        progress.update(task, description="nulls")
        progress.update(task, description="nulls")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 0 of 180",
        "reading: 50 of 180, about 2 minutes left",
        "reading: 100 of 180, about 1 minute left",
        "reading: 150 of 180, about 30 seconds left",
        "reading: 180 of 180",
        "computing",
        "nulls",
    ]
    assert bars_module.EVERY_SECONDS < 60


def test_steps_of_a_batch_that_end_together_are_not_taken_for_speed(capsys):
    clock = [0.0]
    with Bars(lambda: clock[0]) as progress:
        show = follow(progress)
        show("responding", 0, 160)
        for done in range(1, 161):
            clock[0] += 60 if done % 8 == 1 else 1e-4  # eight at a time, in a minute
            show("responding", done, 160)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "responding: 0 of 160",
        "responding: 1 of 160",
        "responding: 9 of 160, about 19 minutes left",
    ]
    assert lines[-1] == "responding: 160 of 160"


def test_a_step_that_takes_long_is_not_silent(capsys):
    clock = [0.0]
    with Bars(lambda: clock[0]) as progress:
        show = follow(progress)
        show("reading", 0, 2)
        for _ in range(3):
            clock[0] += bars_module.EVERY_SECONDS / 2
            progress.beat()
        show("reading", 2, 2)
        clock[0] += 1000
        progress.beat()  # nothing runs any more
    assert capsys.readouterr().err.splitlines() == [
        "reading: 0 of 2",
        "reading: 0 of 2",
        "reading: 2 of 2",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "5 seconds"),
        (43, "45 seconds"),
        (70, "1 minute"),
        (700, "12 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_durations_are_rounded_as_estimates_are(seconds, words):
    assert bars_module.duration(seconds) == words


def command(**environment):
    code = "import sys; from emoguard.cli import main; sys.exit(main())"
    whole = os.environ | environment
    return subprocess.run([sys.executable, "-c", code], env=whole, capture_output=True, check=False)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_works_as_documented(shell):
    script = command(_EMOGUARD_COMPLETE=f"{shell}_source").stdout
    assert f"_EMOGUARD_COMPLETE={shell}_complete".encode() in script
    at = {"COMP_WORDS": "emoguard doc", "COMP_CWORD": "doc" if shell == "fish" else "1"}
    assert b"doctor" in command(_EMOGUARD_COMPLETE=f"{shell}_complete", **at).stdout


def test_doctor_prints_json(capsys):
    from emoguard.cli import main

    main(["doctor", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert {"part", "mark", "text", "command"} == set(shown[0])
    assert {each["mark"] for each in shown} <= {"ok", "absent", "to do", "broken"}
    assert any(each["part"].startswith("probe smollm2") for each in shown)
