"""What the README shows runs, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score

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


def names_after(page):
    """What each Python block of a page defines."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names = [{} for _ in blocks]
    for block, defined in zip(blocks, names, strict=True):
        exec(block, defined)
    return names


def test_the_page_on_scale_runs():
    linear, sharded, spans = names_after("scale.md")
    assert linear["classes"].shape == (128, 5)
    assert sharded["devices"] == 8
    assert sharded["padded"] > sharded["labels"]
    assert not sharded["gradient"][:, sharded["labels"] :].any()
    assert spans["loss"].shape == (2, 3)


def test_the_page_on_decisions_runs():
    thresholds, temperature, r_drop = names_after("decisions.md")
    assert -1.5 < thresholds["one"] < -0.5
    labels, logits = thresholds["labels"][250:], np.asarray(thresholds["logits"][250:])
    tuned = f1_score(labels, np.asarray(thresholds["predicted"]), average="macro")
    assert tuned > f1_score(labels, logits > 0, average="macro") + 0.04
    assert temperature["temperature"] == pytest.approx(1 / 3, abs=0.05)
    one, other = jnp.zeros((2, 3)), jnp.ones((2, 3))
    assert r_drop["r_drop"](one, other, jnp.zeros((2, 3), bool), 1.0) > 0


def test_the_page_on_the_optimizers_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # optax's own Adam raises a float to the power of an integer.
    with jax.numpy_dtype_promotion("standard"):
        factored, trap, devices, steps = names_after("optimizers.md")

    moments = factored["moments"]
    assert moments["layers"]["query"].row.shape == (24, 768)
    assert moments["layers"]["query"].col.shape == (24, 12, 64)
    assert moments["layers"]["norm"].shape == (24, 768)
    assert moments["experts"].row.shape == (8, 256)

    short, long, adax, sgd = map(np.asarray, trap["paths"].values())
    assert np.flatnonzero(short < 0)[0] + 1 == 1011
    np.testing.assert_allclose(
        [long[-1], adax[-1], sgd[-1]], [83.412, 85.073, 80.0], atol=5e-4
    )
    assert (tmp_path / "trap.png").stat().st_size > 10_000

    moment = optax.tree.get(devices["state"], "nu")["kernel"]
    assert moment.row.sharding.is_fully_replicated
    assert len(moment.col.addressable_shards) == 8
    assert moment.col.addressable_shards[0].data.shape == (128,)
    assert devices["size"] == 12_292

    assert steps["train"].step == 1
    assert float(steps["state"].hyperparams["b2"]) == pytest.approx(1e-3)


def test_the_page_on_encoders_runs():
    encoder, packed, tokenizer = names_after("encoders.md")
    assert encoder["hidden"].shape == (2, 4, 32)
    assert encoder["unexpected"] == ()
    assert [row.tolist() for row in packed["rows"]] == [[0, 2], [1, 3]]
    alone = packed["bert"](packed["tokens"][:, 4:])
    assert packed["hidden"][:, 4:] == pytest.approx(np.asarray(alone), abs=1e-5)
    assert tokenizer["span"] == (1, 2)
    assert tokenizer["text"] == "iPhone"


def test_the_page_on_training_runs():
    fitted, by_pmap = names_after("training.md")
    assert fitted["scores"]["micro_f1"] > 0.7
    assert (fitted["folder"] / "checkpoints" / "300" / "digests.json").exists()
    assert by_pmap["losses"][-1] < by_pmap["losses"][0] / 2
