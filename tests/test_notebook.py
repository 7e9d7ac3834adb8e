"""The notebook runs from its first cell to its last, and draws its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import ROOT


@pytest.mark.real
def test_the_notebook_runs(real: Path) -> None:
    import nbclient
    import nbformat

    path = ROOT / "examples" / "library.ipynb"
    book: Any = nbformat.read(path, as_version=4)
    assert real == ROOT / "models" / "SmolLM2-135M-Instruct"
    assert not any(cell.get("outputs") for cell in book.cells), "clear the outputs before a commit"
    done = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "p_first" in printed
    assert "'revision 2':" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
