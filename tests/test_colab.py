"""The notebooks run from top to bottom, with few steps."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "colab").glob("*.ipynb"))


def code_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return "\n".join(
        line for line in "\n".join(code).splitlines() if not line.startswith("%")
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
    # plt.show() warns where there is no screen
    warnings = ["-W", "error", "-W", "ignore:FigureCanvasAgg"]
    run = subprocess.run(
        [sys.executable, *warnings, "-c", code_of(path)],
        env={**os.environ, "SMOKE": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "micro-F1 at 0" in run.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_short_and_without_outputs(path):
    lines = [line for line in code_of(path).splitlines() if line.strip()]
    assert len(lines) < 60
    ast.parse("\n".join(lines))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)


def test_there_are_notebooks():
    assert NOTEBOOKS
