"""The README is short, its links lead somewhere, and generated pages are complete.

Links inside the site are checked by `make docs`.
"""

import json
import re
from pathlib import Path

import pytest

from tools import schema_tables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKS = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")


def prose(text):
    """Return a page without its code blocks and the targets of its links."""
    return re.sub(r"(?ms)^```.*?^```|\]\([^)]*\)", "", text)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 900
    # Names such as SmolLM2-135M and Apache-2.0 are not figures.
    assert len(re.findall(r"(?<![\w.-])\.?\d[\d.,]*(?![\w-])", prose(README))) <= 30


@pytest.mark.parametrize(
    "path",
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")],
    ids=lambda p: p.name,
)
def test_links_outside_the_site_lead_somewhere(path):
    for target, anchor in LINKS.findall(path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        actual = ROOT / target
        assert actual.exists(), target
        if anchor:
            assert anchor[1:] in anchors(actual), f"{target}{anchor}"


def anchors(path):
    """Return the anchors of a page's headings, as GitHub and MkDocs make them of plain words."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("name", ["policy", "report"])
def test_every_key_of_a_schema_is_on_its_page(name):
    class Config:
        docs_dir = str(ROOT / "docs")

    text = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
    page = schema_tables.on_page_markdown(text, config=Config)
    schema = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text(encoding="utf-8"))
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for actual in (schema, *schema["$defs"].values()):
        assert actual["properties"].keys() <= keys


def test_a_limit_is_written_as_it_is():
    value = {"type": "number", "minimum": 0, "maximum": 0.45, "default": 0.1}
    assert schema_tables.kind({}, value, "x") == "number ≥ 0 ≤ 0.45"
    assert schema_tables.default(value) == "`0.1`"
