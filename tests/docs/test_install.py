"""`make` says what pip does."""

from tools import install

OUTPUT = """\
Collecting llama-cpp-python>=0.3.30
  Downloading llama_cpp_python-0.3.36.tar.gz (76.6 MB)
  Building wheel for llama-cpp-python (pyproject.toml): started
  [1/4] /usr/bin/g++ -DGGML_BUILD -c a.cpp
  [2/4] /usr/bin/gcc -DGGML_BUILD -c b.c
  a line of a compiler
  [4/4] : && /usr/bin/g++ -shared
Installing collected packages: llama-cpp-python
""".splitlines()


def test_the_steps_of_pip_are_shown_with_the_progress_of_the_compiler():
    slow = install.SLOW["compiling llama-cpp-python"]
    assert list(install.steps(OUTPUT)) == [
        "collecting llama-cpp-python",
        "collecting llama_cpp_python-0.3.36.tar.gz",
        slow,
        f"{slow}: 25 %",
        f"{slow}: 50 %",
        f"{slow}: 100 %",
        "installing",
    ]


def test_progress_of_make_is_read_too():
    lines = ["Building wheel for x (pyproject.toml)", "[  6%] Building CXX object"]
    assert list(install.steps(lines)) == ["compiling x", "compiling x: 6 %"]


def test_without_a_terminal_each_kind_of_step_is_one_line():
    steps = [
        "collecting a",
        "collecting b",
        "compiling x: 1 %",
        "compiling x: 9 %",
        "compiling x: 10 %",
    ]
    shown = "".join(install.display(steps, live=False))
    assert [line.split()[1:] for line in shown.splitlines()] == [
        ["collecting", "a"], ["compiling", "x:", "1", "%"], ["compiling", "x:", "10", "%"],
    ]  # fmt: skip


def test_on_a_terminal_a_shorter_step_leaves_nothing_of_the_one_before():
    shown = list(install.display(["a long step indeed", "short"], live=True))
    assert {len(text) for text in shown} == {install.WIDTH + 1}
    assert all(text.startswith("\r") for text in shown)


def test_a_failure_shows_the_end_of_pips_output(capfd):
    assert install.main(["--no-index", "no-such-package"]) == 1
    out, _ = capfd.readouterr()
    assert "no-such-package" in out
    assert "install.log" in out
