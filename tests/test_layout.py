"""The house keeps its shape: who may import whom, what is shipped, what an import costs."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KINDS = ("plugins", "monitors", "exporters")
PACKAGES = sorted(
    path
    for path in [ROOT / "emoguard", *(p for kind in KINDS for p in (ROOT / kind).glob("*"))]
    if (path / "__init__.py").exists()
)
SHARED = {"emoguard_torch", "emoguard_asgi", "emoguard_page"}
"""The spokes that others may import: what runtimes built on torch share, what apps of ASGI do, the
page before a server."""
SPOKES = {path.name for path in PACKAGES} - {"emoguard"}
ROOMS = ("", "probe", "steering", "notices", "sinks", "policy", "runtime", "testing")
"""Folders of the core: what the rest of `emoguard` (fit, validate, study, cli) builds on."""
CORE = sorted(path for room in ROOMS for path in (ROOT / "emoguard" / room).glob("*.py"))
WORKSHOPS = {"emoguard.fit", "emoguard.validate", "emoguard.study", "emoguard.cli"}
HEAVY = {"torch", "transformers", "llama_cpp", "gguf", "prometheus_client", "click", "rich"}
ON_USE = {"yaml", "pydantic"}


def imports(path, *, top_level_only=False):
    """Root packages that a file imports; `if TYPE_CHECKING:` blocks do not count."""
    results = set()
    waiting = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            results |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            results.add(node.module.partition(".")[0])
        if not (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            waiting.extend(ast.iter_child_nodes(node))
    return results


@pytest.mark.parametrize("path", CORE, ids=str)
def test_core_imports_no_spoke_and_no_heavy_library(path):
    assert not imports(path) & (SPOKES | HEAVY)


@pytest.mark.parametrize("path", [p for p in CORE if p.parent.name != "testing"], ids=str)
def test_the_core_imports_nothing_that_fits_judges_or_studies(path):
    names = {".".join(name.split(".")[:2]) for name in imported(path, modules(ROOT / "emoguard"))}
    assert not names & WORKSHOPS


@pytest.mark.parametrize("path", CORE, ids=str)
def test_pyyaml_and_pydantic_are_imported_only_for_a_policy_and_only_on_use(path):
    allowed = {"yamlfile.py": {"yaml"}, "schema.py": {"pydantic"}}.get(path.name, set())
    assert imports(path) & ON_USE <= allowed
    assert not imports(path, top_level_only=True) & ON_USE


@pytest.mark.parametrize("path", sorted((ROOT / "emoguard" / "fit").glob("*.py")), ids=str)
def test_the_fit_imports_no_spoke_and_heavy_libraries_only_on_use(path):
    assert not imports(path) & SPOKES
    assert not imports(path, top_level_only=True) & HEAVY


def modules(package):
    """Return the files of a package by their import names."""
    base = package.parent
    names = {
        path: ".".join(path.relative_to(base).with_suffix("").parts)
        for path in package.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(path, known):
    """Return the modules of `known` that a file imports, for types, too."""
    results = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            results |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            results |= {name if name in known else node.module for name in inside}
    return results & known.keys()


def test_no_modules_import_each_other_in_a_circle():
    known = {name: path for package in PACKAGES for name, path in modules(package).items()}
    arrows = {name: imported(path, known) - {name} for name, path in known.items()}
    # Peel off what imports nothing any more: circles, and what leads to them, are left.
    while leaves := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}
    assert not arrows


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_no_class_has_more_than_twenty_methods(package):
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = [
                    n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                assert len(methods) <= 20, f"{node.name} in {path}"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_spokes_do_not_import_each_other(package):
    if package.name == "emoguard":
        pytest.skip("the core is checked above")
    for path in package.rglob("*.py"):
        assert not imports(path) & (SPOKES - SHARED - {package.name}), path


RUNTIMES = re.compile("torch|transformers|llama|gguf|vllm", re.IGNORECASE)
NAMES_A_RUNTIME = {
    "emoguard/extras.py": "an extra is called after it",
    "emoguard/cli/demo.py": "the code that users write",
    "emoguard/cli/models.py": "the file of the demo",
    "emoguard/study/judges.py": "judges are classifiers, which have a library of their own",
}
"""Files outside `plugins/` that may name a runtime, and why."""


def words(path):
    """Return the names and texts of a source file but its prose: docstrings and help."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    prose = {node.value for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg in ("help", "short_help"):
            prose |= set(ast.walk(node.value))
    for node in set(nodes) - prose:
        results = [getattr(node, key, None) for key in ("id", "attr", "arg", "name", "module")]
        yield from (word for word in results if isinstance(word, str))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(
    "path",
    [p for kind in ("emoguard", "monitors", "exporters") for p in (ROOT / kind).rglob("*.py")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_nothing_outside_the_plugins_names_a_runtime(path):
    if path.relative_to(ROOT).as_posix() not in NAMES_A_RUNTIME:
        assert [word for word in words(path) if RUNTIMES.search(word)] == []


def test_files_that_may_name_a_runtime_do():
    for name in NAMES_A_RUNTIME:
        assert any(RUNTIMES.search(word) for word in words(ROOT / name)), name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_no_module_has_more_than_four_hundred_lines(package):
    for path in package.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


NAMED = re.compile(r"`(emoguard(?:_[a-z]+)?(?:\.\w+)+)`")
GROUPS = ("emoguard.plugins", "emoguard.monitors", "emoguard.exporters")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_names_in_docstrings_exist(package):
    known = {name: path for each in PACKAGES for name, path in modules(each).items()}
    for path in package.rglob("*.py"):
        for name in NAMED.findall(path.read_text(encoding="utf-8")):
            if name.startswith(GROUPS):
                continue
            parts = name.split(".")
            heads = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
            module = next((head for head in heads if head in known), None)
            assert module is not None, f"{name} in {path}"
            rest = name.removeprefix(module).lstrip(".").partition(".")[0]
            assert rest in known[module].read_text(encoding="utf-8"), f"{name} in {path}"


def test_packages_on_disk_are_the_packages_shipped():
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(shipped) == sorted(path.relative_to(ROOT).as_posix() for path in PACKAGES)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_package_is_typed(package):
    assert (package / "py.typed").is_file()


def test_entry_points_are_installed_and_resolve():
    wanted = {
        (group, name, value)
        for group, points in PROJECT["project"]["entry-points"].items()
        for name, value in points.items()
    }
    actual = {(p.group, p.name, p.value): p for g in {w[0] for w in wanted} for p in _points(g)}
    assert actual.keys() == wanted, "install the project again"
    for point in actual.values():
        assert point.load() is not None


def test_plugins_offer_both_doors_and_open_models_by_path():
    for point in _points("emoguard.plugins"):
        module = importlib.import_module(point.value)
        for name in ("joint", "open_residuals", "open_speaker", "opens", "hint"):
            assert callable(getattr(module, name)), f"{point.value}.{name}"
        assert isinstance(module.FORMAT, str)
        assert isinstance(module.BATCHES, bool)


def test_a_plugin_describes_its_format_without_loading_its_runtime():
    code = (
        "import json, sys; from emoguard.runtime import openers; "
        "openers.formats(); [o.opens(openers.Path('/')) for o in openers.openers().values()]; "
        "print(json.dumps(list(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd="/")
    assert not set(json.loads(out.stdout)) & (HEAVY | {"vllm"})


def _points(group):
    return [p for p in entry_points(group=group) if p.dist and p.dist.name == "emoguard"]


def test_importing_emoguard_loads_numpy_and_no_other_library():
    watched = HEAVY | ON_USE | {"numpy", "safetensors", "google"}
    code = "import json, sys, emoguard; print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd="/")
    assert set(json.loads(out.stdout)) & watched == {"numpy"}


def test_the_core_installs_at_most_ten_packages():
    assert {"numpy", "pydantic", "emoguard"} <= closure("emoguard")
    assert len(closure("emoguard") - {"emoguard"}) <= 10


def closure(name, seen=None):
    """Return the names of everything that installing `name` without extras installs."""
    seen = set() if seen is None else seen
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return seen
    try:
        needed = requires(name) or []
    except PackageNotFoundError:
        return seen  # a requirement of another platform
    seen.add(key)
    for line in needed:
        if "extra ==" not in line:
            closure(re.match(r"[A-Za-z0-9._-]+", line).group(), seen)
    return seen
