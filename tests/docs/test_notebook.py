"""The notebook runs from top to bottom on the small model, as a researcher would run it."""

import nbformat
import pytest
from nbclient import NotebookClient

from emoguard.probe import artifact
from tests.support import models

PATH = models.ROOT / "docs" / "notebooks" / "probe.ipynb"
LONGEST_CELL = 1800
"""Seconds: a bound for a kernel that hangs, not a claim about speed."""


def shown(cell, kind):
    """Return what a cell shows of one kind."""
    outputs = cell.get("outputs", [])
    return [o.data[kind] for o in outputs if kind in o.get("data", {})]


def printed(cell):
    return "".join(o.text for o in cell.get("outputs", []) if o.get("name") == "stdout")


@pytest.mark.real
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    models.smollm2_gguf()
    notebook = nbformat.read(PATH, 4)
    NotebookClient(
        notebook, timeout=LONGEST_CELL, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(len(shown(cell, "image/png")) for cell in cells) == 2
    assert any("<span" in html for cell in cells for html in shown(cell, "text/html"))
    assert any("layers chosen on the stories: " in printed(cell) for cell in cells)
    probe, calibrations = artifact.load(tmp_path / "notebook-work" / "notebook.safetensors")
    assert len(calibrations) == 1
    assert len(probe.labels) == 13
    logged = [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    assert all("few texts" in text for text in logged), "a probe of few texts says so when used"


def test_the_committed_notebook_holds_what_it_showed_and_no_path_of_a_machine():
    notebook = nbformat.read(PATH, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(len(shown(cell, "image/png")) for cell in cells) == 2
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = PATH.read_text(encoding="utf-8")
    assert "/root/" not in text
    assert "/home/" not in text
