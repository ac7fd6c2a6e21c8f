"""The wheel installs with each extra on each Python that is claimed, and its commands run there.

Run by `make wheel`, which builds the wheel and names it in EMOGUARD_WHEEL: environments are made
and packages fetched, so this is no part of `make test`. llama-cpp-python is built once and used on
every Python (its wheel is py3-none).
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [
    version[1]
    for line in PROJECT["classifiers"]
    if (version := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
]
THIS = f"3.{sys.version_info.minor}"
COMMANDS = {
    "": ["python -c \"import emoguard; emoguard.Guard.load('smollm2-135m-instruct')\""],
    "llamacpp": ["python -c 'import emoguard_llamacpp, emoguard_asgi'"],
    "transformers": ["python -c 'import emoguard_transformers'"],
    "prometheus": ["python -c 'import emoguard_prometheus'"],
    "cli": ["emoguard --version", "emoguard show"],
    "serve": [
        "emoguard serve --help",
        "emoguard rules",
        "emoguard dashboard",
        "python -c 'import emoguard_llamacpp.server'",
    ],
    "serve-transformers": ["python -c 'import emoguard_transformers.server'"],
    "page": ["emoguard watch-page --help", "python -c 'import emoguard_page'"],
    "fit": ["python -c 'import emoguard.fit.recipe, emoguard.validate.validation'"],
    "dose": ["python -c 'import emoguard.study.dose'"],
    "all": ["emoguard doctor", "emoguard fit --help", "emoguard dose --help"],
}
"""What must work with an extra alone. The commands of the install page are run besides."""


def interpreter(version):
    """Return a Python of `version`; skips where there is none."""
    names = [f"python{version}", *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for name in names:
        path = shutil.which(name)
        # A shim of pyenv is there also for versions that are not chosen.
        if (
            path
            and not subprocess.run(
                [path, "-c", ""], check=False, stderr=subprocess.DEVNULL
            ).returncode
        ):
            return path
    pytest.skip(f"Python {version} is not installed")


@pytest.fixture(scope="session")
def wheel():
    if "EMOGUARD_WHEEL" not in os.environ:
        pytest.skip("make wheel builds a wheel and tries it")
    return (ROOT / os.environ["EMOGUARD_WHEEL"]).resolve()


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory):
    """Return a folder with the one wheel that would be compiled for every environment."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    run(f"{sys.executable} -m pip wheel --quiet --no-deps --wheel-dir . "
        f"--constraint {ROOT / 'constraints.txt'} llama-cpp-python", folder)  # fmt: skip
    return folder


def run(command, folder, path=""):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, env=environment(path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def environment(path):
    """Return the environment without what leads Python to this tree."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PATH": os.pathsep.join(filter(None, [str(path), os.environ["PATH"]]))}


@pytest.fixture
def install(wheel, wheelhouse, tmp_path):
    """Return a function that installs the wheel and returns the folder of its commands."""

    def install(version, extras):
        run(f"{interpreter(version)} -m venv environment", tmp_path)
        programs = tmp_path / "environment" / "bin"
        wanted = f"{wheel}[{extras}]" if extras else f"{wheel}"
        run(f"python -m pip install --quiet --find-links {wheelhouse} "
            f"--constraint {ROOT / 'constraints.txt'} '{wanted}'", tmp_path, programs)  # fmt: skip
        return programs

    return install


def test_every_extra_is_tried():
    assert COMMANDS.keys() - {""} == PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("extra", COMMANDS)
def test_an_extra_brings_its_libraries(extra, install, tmp_path):
    programs = install(THIS, extra)
    for command in COMMANDS[extra]:
        run(command, tmp_path, programs)


@pytest.mark.parametrize("version", PYTHONS)
def test_the_commands_of_the_install_page_work_on_every_python_claimed(version, install, tmp_path):
    programs = install(version, "llamacpp,cli")
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = [block for block in blocks if 'pip install "."' not in block]
    commands = [block for block in commands if 'pip install ".[' not in block]
    assert len(commands) >= 3
    for block in commands:
        shown = run(block, tmp_path, programs)
    assert "happy" in shown  # the last one answers a prompt


def test_the_wheel_holds_every_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.split("/")[0] for name in archive.namelist()}
    packages = {path.parent.name for kind in ("plugins", "monitors", "exporters")
                for path in (ROOT / kind).glob("*/__init__.py")}  # fmt: skip
    version = re.search(r'__version__ = "(.+)"', (ROOT / "emoguard" / "__init__.py").read_text())[1]
    assert roots == packages | {"emoguard", f"emoguard-{version}.dist-info"}
