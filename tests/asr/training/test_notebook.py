from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path("examples/notebooks/finetune_fastconformer.ipynb")


def read_notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in read_notebook().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
def test_the_notebook_fine_tunes_the_bundled_model(monkeypatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    from aronnax.core.hub import bundled

    if "digits" not in bundled():
        pytest.skip("the bundled model `digits` is not in this tree")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    book = read_notebook()
    nbclient.NotebookClient(book, timeout=1500, kernel_name="python3").execute()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    said = "".join(output.get("text", "") for output in code[-1].outputs)
    line = next(line for line in said.splitlines() if line.startswith("WER"))
    before, after = (float(rate) for rate in line.removeprefix("WER ").replace("%", "").split("->"))
    assert after < before / 2, said
    assert any("image/png" in output.get("data", {}) for output in code[-2].outputs), "the plot is drawn"
