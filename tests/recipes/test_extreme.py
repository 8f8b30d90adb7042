"""`zlpr-jax train multilabel` above 10,000 labels, from files to the run folder."""

import json

import numpy as np
import pytest

from zlpr_jax.recipes._config import (
    LINEAR_LABELS,
    ExperimentConfig,
    ModelConfig,
    settle,
)
from zlpr_jax.recipes.yeast import Config as YeastConfig
from zlpr_jax.tasks.topk_scores import TOPK_SCORES

LABELS = 12_001
QUICK = [
    *("--steps", "60", "--eval-every", "30", "--batch-size", "64"),
    *("--model.hidden", "64", "--optimizer.learning-rate", "3e-3"),
]


def write_rows(path, rows=120, seed=0):
    """Rows with one of twelve labels, each with two features of its own."""
    rng = np.random.default_rng(seed)
    lines = [f"{rows} 5000 {LABELS}"]
    for number in range(rows):
        which = rng.integers(12)
        # one row has no label
        label = "" if number == 3 else str(which * 1000)
        lines.append(f"{label} {which * 10}:1 {which * 10 + 1}:0.5 {4000 + number}:0.1")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A run, and its files."""
    folder = tmp_path_factory.mktemp("extreme")
    train = write_rows(folder / "train.svm")
    test = write_rows(folder / "test.svm", rows=40, seed=1)
    status, out, err = run(
        "train", "multilabel", "--data", train, "--test", test, "--run", folder / "run",
        *QUICK, "--seeds", "2",
    )  # fmt: skip
    assert (status, err) == (0, "")
    return folder, out


def test_run_folder(trained, run_files):
    folder, out = trained
    assert {path.name for path in (folder / "run").iterdir()} == run_files
    assert (folder / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for title, _ in TOPK_SCORES.values():
        assert title in out
    assert "best validation precision_at_1" in out
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["task"] == "extreme"
    assert config["settings"]["losses"] == ["zlpr"]
    assert config["settings"]["steps"] == 60
    assert config["network"]["labels"] == LABELS
    assert config["network"]["dropout"] == config["settings"]["model"]["dropout"]


def test_results_and_metrics(trained):
    folder, _ = trained
    results = json.loads((folder / "run" / "results.json").read_text())
    assert set(results) == {"zlpr"}
    assert set(results["zlpr"]) == set(TOPK_SCORES)
    score = results["zlpr"]["precision_at_1"]
    assert len(score["values"]) == 2
    assert score["mean"] > 0.8
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # reports every five steps, evaluations every thirty
    assert {"step", "train", "loss", "seed", "stage"} == set(rows[0])
    assert [row["step"] for row in rows if "validation" in row] == [30, 60] * 2
    # the second fit is on all rows: 60 steps on 96 of 120 are 75
    assert rows[-1]["step"] in (38, 75)
    assert rows[-1]["test"]["precision_at_1"] == score["values"][-1]


def test_predictions_are_the_top_labels(trained):
    folder, _ = trained
    lines = (folder / "run" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 40
    for line in map(json.loads, lines):
        scores = list(line["scores"].values())
        assert len(scores) == 20
        assert scores == sorted(scores, reverse=True)
        assert line["labels"] == [n for n, s in line["scores"].items() if s > 0]


def test_evaluate_and_predict_repeat_the_first_seed(run, trained):
    folder, _ = trained
    results = json.loads((folder / "run" / "results.json").read_text())
    status, out, _ = run("evaluate", folder / "run")
    assert status == 0
    lines = out.splitlines()
    for name, (title, _) in TOPK_SCORES.items():
        value = f"{results['zlpr'][name]['values'][0]:.4f}"
        assert any(f" {title} " in f" {line}" and value in line for line in lines)
    status, out, _ = run("predict", folder / "run", "--data", folder / "test.svm")
    assert status == 0
    expected = (folder / "run" / "predictions.jsonl").read_text().splitlines()
    for line, other in zip(out.splitlines(), expected, strict=True):
        line, other = json.loads(line), json.loads(other)
        assert line["labels"] == other["labels"]
        assert line["scores"] == pytest.approx(other["scores"], abs=1e-4)


def test_split_labels_and_no_refit(run, trained, tmp_path):
    folder, _ = trained
    status, _, err = run(
        "train", "multilabel", "--data", folder / "train.svm",
        "--test", folder / "test.svm", "--run", tmp_path / "run",
        *QUICK, "--mesh", "label=8", "--no-refit", "--top", "7",
    )  # fmt: skip
    assert (status, err) == (0, "")
    rows, others = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "run/metrics.jsonl", folder / "run/metrics.jsonl")
    )
    # the first fit of the first seed is the same
    for row, other in zip(rows[:-1], others, strict=False):
        assert row["step"] == other["step"]
        loss, other_loss = row["train"]["loss"], other["train"]["loss"]
        assert loss == pytest.approx(other_loss, rel=1e-5)
    assert rows[-1]["step"] <= 60, "and there is no second"
    status, out, _ = run("evaluate", tmp_path / "run")
    assert status == 0
    assert f"{rows[-1]['test']['ndcg_at_5']:.4f}" in out
    line = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0]
    assert len(json.loads(line)["scores"]) == 7


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["--losses", "zlpr", "bce"], "bce needs the scores of all 12001 labels"),
        (["--mesh", "label=9"], "xla_force_host_platform_device_count=9"),
        (["--model.hidden"], "hidden layer"),
        (["--top", "20000"], "top must be in"),
    ],
)
def test_bad_settings_are_one_line(run, trained, tmp_path, settings, reason):
    folder, _ = trained
    data = ["--data", folder / "train.svm", "--run", tmp_path / "run"]
    status, _, err = run("train", "multilabel", *data, *QUICK, *settings)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert reason in err
    assert not list(tmp_path.iterdir())


def test_damaged_run_is_one_line(run, trained, tmp_path):
    folder, _ = trained
    for path in (folder / "run").glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    schema = json.loads((tmp_path / "schema.json").read_text())
    del schema["label_counts"]
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    status, _, err = run("evaluate", tmp_path)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "label_counts" in err


def test_what_settings_leave_open():
    few = settle(ExperimentConfig(), LINEAR_LABELS)
    many = settle(ExperimentConfig(), LINEAR_LABELS + 1)
    assert (few.losses, few.steps, few.batch_size) == (("zlpr", "bce"), 3000, 128)
    assert (few.model.hidden, few.model.dropout) == ((512,), 0.5)
    assert many.losses == ("zlpr",)
    assert many.model.hidden == (128,)
    given = ExperimentConfig(
        steps=7, batch_size=9, model=ModelConfig(hidden=(), dropout=0.25)
    )
    for labels in (5, 50_000):
        settled = settle(given, labels)
        assert (settled.steps, settled.batch_size) == (7, 9)
        assert (settled.model.hidden, settled.model.dropout) == ((), 0.25)
    assert settle(YeastConfig(), 14).model.hidden == (512, 256)
