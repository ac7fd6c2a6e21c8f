"""Finding a plug-in's module, and the line of a library's error that says why."""

import os
from importlib.metadata import EntryPoint

import pytest

from emoguard.errors import EmoGuardError
from emoguard.runtime import openers


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put packages with these modules on the path, as the plug-ins that are installed."""

    def install(**modules):
        for package, names in modules.items():
            folder = tmp_path / package
            folder.mkdir()
            for name in ("__init__", *names):
                (folder / f"{name}.py").write_text(f"WHERE = '{package}'\n", encoding="utf-8")
        points = {p: EntryPoint(p, p, openers.PLUGINS) for p in modules}
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(openers, "plugins", lambda: points)

    return install


def test_the_one_plugin_with_a_module_is_taken_wherever_it_stands(install):
    install(opener_a=[], opener_b=["vector"])
    assert openers.module("vector").WHERE == "opener_b"


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        ({"opener_c": []}, "got none"),
        ({"opener_d": ["vector"], "opener_e": ["vector"]}, "got opener_d, opener_e"),
    ],
)
def test_no_plugin_and_several_plugins_with_a_module_are_errors(install, modules, named):
    install(**modules)
    with pytest.raises(EmoGuardError, match=named):
        openers.module("vector")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        ("\n  one  \n\ntwo", "one"),
        ("these are missing:\n  the weights\nand more", "these are missing: the weights"),
        ("these are missing:", "these are missing:"),
        ("", ""),
        ("x" * 400, "x" * 300),
    ],
)
def test_a_librarys_error_is_cut_to_the_line_that_says_why(text, line):
    assert openers.first_line(ValueError(text)) == line


def test_a_name_that_no_file_can_have_is_no_model(tmp_path):
    with pytest.raises(EmoGuardError, match=r"there is no model at .*xxx: give "):
        openers.recognise(tmp_path / ("x" * 300))


def test_a_model_in_a_folder_that_may_not_be_searched_is_no_model(tmp_path, monkeypatch):
    stat = os.stat

    def refuse(path, **options):  # root may search every folder
        if str(path).startswith(f"{tmp_path}/locked/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(EmoGuardError, match=r"there is no model at .*locked/model: give "):
        openers.recognise(tmp_path / "locked" / "model")
