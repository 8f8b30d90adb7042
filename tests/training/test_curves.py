"""The picture of a training."""

import numpy as np
import pytest
from matplotlib.image import imread

from zlpr_jax.training import _curves
from zlpr_jax.training._curves import draw_curves

ROWS = [
    {"step": 25, "train": {"loss": 2.5}},
    {"step": 30, "skipped": {"loss": True}},
    {"step": 50, "train": {"loss": None}, "validation": {"micro_f1": 0.6}},
    {"step": 75, "train": {"loss": 1.5}},
]


@pytest.fixture
def axes(monkeypatch):
    """The axes of the pictures that are drawn."""
    seen = []
    curves = _curves._curves

    def spy(axes, **options):
        curves(axes, **options)
        seen.append(axes)

    monkeypatch.setattr(_curves, "_curves", spy)
    return seen


def draw(tmp_path, rows):
    path = tmp_path / "curves.png"
    draw_curves(path, rows, title="emotions", headline=("micro_f1", "max"))
    return imread(path)


def test_loss_and_headline_against_the_step(tmp_path, axes):
    picture = draw(tmp_path, ROWS)
    loss, score = axes
    line, skipped = loss.lines
    np.testing.assert_array_equal(line.get_xdata(), [25, 50, 75])
    np.testing.assert_array_equal(line.get_ydata(), [2.5, np.nan, 1.5])
    assert list(skipped.get_xdata()) == [30]
    assert skipped.get_label() == "skipped steps"
    assert list(score.lines[0].get_ydata()) == [0.6]
    assert (loss.get_ylabel(), score.get_ylabel()) == (
        "training loss",
        "validation micro_f1",
    )
    assert picture.shape[1] > picture.shape[0]


def test_a_line_for_each_label(tmp_path, axes):
    rows = [
        {"loss": loss, "seed": 0, **row} for loss in ("zlpr", "bce") for row in ROWS
    ]
    draw(tmp_path, rows)
    _, names = axes[0].get_legend_handles_labels()
    assert names == ["zlpr, seed 0", "bce, seed 0", "skipped steps"]


@pytest.mark.parametrize("rows", [ROWS[:1], []])
def test_without_validation_there_is_one_panel(tmp_path, axes, rows):
    picture = draw(tmp_path, rows)
    (loss,) = axes
    assert len(loss.lines) == len(rows)
    assert loss.get_legend() is None
    assert picture.size
