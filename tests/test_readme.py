"""What the README shows runs, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_example_runs():
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert len(example.strip().splitlines()) <= 10
    check = "\nassert predicted.tolist() == [[True, True, False, False]]"
    subprocess.run([sys.executable, "-W", "error", "-c", example + check], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_paths_in_the_map_exist():
    paths = re.findall(r"`((?:zlpr_jax|colab|benchmarks)/[^`]*)`", PAGES[0].read_text())
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_page_on_scale_runs():
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    linear, sharded, spans = ({} for _ in range(3))
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    for block, names in zip(blocks, (linear, sharded, spans), strict=True):
        exec(block, names)
    assert linear["classes"].shape == (128, 5)
    assert sharded["devices"] == 8
    assert sharded["padded"] > sharded["labels"]
    assert not sharded["gradient"][:, sharded["labels"] :].any()
    assert spans["loss"].shape == (2, 3)
