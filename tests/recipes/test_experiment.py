"""`zlpr-jax train`, `evaluate` and `predict`, from files to the run folder."""

import io
import json

import numpy as np
import pytest

from zlpr_jax.data.yeast import read_yeast
from zlpr_jax.recipes._results import paired_difference, summarize
from zlpr_jax.tasks.scores import MULTILABEL_SCORES

QUICK = ["--seeds", "2", "--steps", "30", "--eval-every", "10", "--model.hidden", "16"]


@pytest.fixture(scope="module")
def texts(run, write_texts, tmp_path_factory):
    """A run on text files, and the files."""
    folder = tmp_path_factory.mktemp("texts")
    train = write_texts(folder / "train.jsonl")
    test = write_texts(folder / "test.jsonl", rows=30, seed=1)
    status, out, err = run(
        "train", "multilabel", "--data", train, "--test", test, "--run", folder / "run",
        *QUICK, "--steps", "200", "--optimizer.learning-rate", "1e-2",
    )  # fmt: skip
    assert (status, err) == (0, "")
    return folder, out


def test_run_folder_is_complete(texts, run_files):
    folder, out = texts
    assert {path.name for path in (folder / "run").iterdir()} == run_files
    assert str(folder / "run" / "curves.png") in out
    assert (folder / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for title, _ in MULTILABEL_SCORES.values():
        assert title in out
    assert "\x1b" not in out, "no colour codes where the output is no terminal"


def test_results_and_metrics(texts):
    folder, _ = texts
    results = json.loads((folder / "run" / "results.json").read_text())
    assert set(results) == {"zlpr", "bce", "bce_tuned", "zlpr_minus_bce"}
    for column in ("zlpr", "bce", "bce_tuned"):
        assert set(results[column]) == set(MULTILABEL_SCORES)
        for score in results[column].values():
            assert len(score["values"]) == 2
            assert score["mean"] == pytest.approx(np.mean(score["values"]))
            assert score["std"] == pytest.approx(np.std(score["values"], ddof=1))
    assert results["zlpr"]["micro_f1"]["mean"] > 0.95, "three words, three labels"
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    tests = [row for row in rows if "test" in row]
    assert [(row["loss"], row["seed"]) for row in tests] == [
        ("zlpr", 0), ("bce", 0), ("zlpr", 1), ("bce", 1),
    ]  # fmt: skip
    assert tests[0]["test"]["lrap"] == results["zlpr"]["lrap"]["values"][0]
    assert {"step", "train", "validation", "loss", "seed", "stage"} == set(rows[0])
    assert {row["stage"] for row in rows if "validation" in row} == {"search"}
    assert {row["stage"] for row in tests} == {"refit"}


def test_evaluate_repeats_the_first_seed(run, texts):
    folder, _ = texts
    results = json.loads((folder / "run" / "results.json").read_text())
    status, out, _ = run("evaluate", folder / "run")
    assert status == 0
    for name in ("lrap", "map", "ranking_loss"):
        title, value = MULTILABEL_SCORES[name][0], results["zlpr"][name]["values"][0]
        assert any(
            title in line and f"{value:.4f}" in line for line in out.splitlines()
        )


def test_evaluate_takes_an_older_run(run, texts, tmp_path):
    """Before there were two tasks, config.json did not say which."""
    folder, _ = texts
    for path in (folder / "run").glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("task") == "multilabel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = run("evaluate", folder / "run")
    assert expected[0] == 0
    assert run("evaluate", tmp_path) == expected


def test_predict_repeats_the_predictions(run, texts, tmp_path):
    folder, _ = texts
    expected = (folder / "run" / "predictions.jsonl").read_text()
    status, out, _ = run("predict", folder / "run", "--data", folder / "test.jsonl")
    assert (status, out) == (0, expected)
    first = json.loads(out.splitlines()[0])
    assert first["id"] == "row0"
    assert first["labels"] == [n for n, score in first["scores"].items() if score > 0]
    output = tmp_path / "p.jsonl"
    arguments = ["predict", folder / "run", "--data", folder / "test.jsonl"]
    assert run(*arguments, "--output", output) == (0, "", "")
    assert output.read_text() == expected
    status, _, err = run(*arguments, "--output", output)
    assert status == 2
    assert "exists" in err


def test_predict_reads_standard_input_without_labels(run, texts, monkeypatch):
    folder, _ = texts
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "gusty loud day"}\n'))
    status, out, _ = run("predict", folder / "run", "--data", "-")
    assert status == 0
    assert json.loads(out)["labels"] == ["wind"]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": 3}\n'))
    status, out, err = run("predict", folder / "run", "--data", "-")
    assert (status, out) == (2, "")
    assert "<stdin>:1" in err


def test_threshold_moves_the_labels(run, texts):
    folder, _ = texts
    arguments = ["predict", folder / "run", "--data", folder / "test.jsonl"]
    status, out, _ = run(*arguments, "--threshold", "1e9")
    assert status == 0
    assert not any(json.loads(line)["labels"] for line in out.splitlines())


def test_same_seed_same_results(run, write_texts, tmp_path):
    data = write_texts(tmp_path / "train.jsonl")
    found = []
    for name in ("a", "b"):
        arguments = ["train", "multilabel", "--data", data, "--run", tmp_path / name]
        flags = [*QUICK, "--seeds", "1", "--losses", "zlpr", "--no-refit"]
        assert run(*arguments, *flags)[0] == 0
        found.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert found[0] == found[1]


def test_yeast(run, tmp_path):
    status, out, err = run(
        "train", "yeast", "--run", tmp_path / "run", *QUICK, "--seeds", "1"
    )
    assert (status, err) == (0, "")
    assert "917 test rows" in out
    _, test = read_yeast()
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(test.ids)
    status, out, _ = run("evaluate", tmp_path / "run")
    assert status == 0
    assert "917 rows" in out


BAD = {
    "missing file": (["--data", "absent.jsonl"], "absent.jsonl"),
    "unknown extension": (["--data", "x.parquet"], ".parquet"),
    "label column absent": (["--data", "x.csv", "--labels", "a,zz"], "zz"),
    "row length": (["--data", "short.csv", "--labels", "a,b"], "short.csv:3"),
    "labels out of range": (["--data", "range.svm"], "range.svm:2"),
    "nan": (["--data", "nan.csv", "--labels", "a,b"], "nan.csv:3"),
    "empty": (["--data", "empty.jsonl"], "empty.jsonl"),
    "unseen label": (["--data", "x.jsonl", "--test", "new.jsonl"], "snow"),
    "no feature": (["--data", "bare.jsonl"], "no row has a feature"),
    "existing run": (["--data", "x.jsonl", "--run", "old"], "exists"),
    "validation too small": (["--data", "x.jsonl", "--validation", "1e-9"], "empty"),
    "no step": (["--data", "x.jsonl", "--steps", "0"], "steps must be >= 1"),
    "parts of a batch": (
        ["--data", "x.jsonl", "--accumulate", "3"],
        "accumulate must divide batch_size 128",
    ),
    "no such axis": (["--data", "x.jsonl", "--mesh", "dta=8"], "did you mean data?"),
    "rows not split": (
        ["--data", "x.jsonl", "--mesh", "data=8", "--batch-size", "12"],
        "multiple of the 8 devices",
    ),
    "labels not split": (
        ["--data", "x.jsonl", "--mesh", "label=2"],
        "the mesh axis label splits sets of more than 10000 labels",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run, write_texts, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "x.jsonl")
    (tmp_path / "x.parquet").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "x.csv").write_text("f,a,b\n1,0,1\n2,1,0\n")
    (tmp_path / "short.csv").write_text("f,a,b\n1,0,1\n2,1\n")
    (tmp_path / "nan.csv").write_text("f,a,b\n1,0,1\nnan,1,0\n")
    (tmp_path / "range.svm").write_text("1 2 3\n7 0:1.0\n")
    (tmp_path / "new.jsonl").write_text('{"text": "a", "labels": ["snow"]}\n')
    (tmp_path / "bare.jsonl").write_text('{"features": {}, "labels": ["a"]}\n' * 9)
    (tmp_path / "old").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    arguments, reason = BAD[case]
    status, out, err = run("train", "multilabel", *arguments)
    assert status == 2
    assert err.startswith("zlpr-jax: error: ")
    assert len(err.splitlines()) == 1
    assert reason in err
    assert "Traceback" not in out + err
    left = {path.name for path in tmp_path.iterdir()} - before - {"runs"}
    assert not left, "no half-written run folder"
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["evaluate", "absent"], "no such run folder"),
        (["evaluate", "."], "config.json"),
        (["predict", "absent", "--data", "x.jsonl"], "no such run folder"),
        (["train", "nothing"], "invalid choice"),
        (["nothing"], "invalid choice"),
        ([], "required"),
        (["train", "yeast", "--no-such-setting", "1"], "no-such-setting"),
        (["train", "yeast", "--optimizer.learning-rate", "-1"], "must be > 0"),
    ],
)
def test_bad_commands(run, arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments)
    assert status == 2
    assert reason in err
    assert "Traceback" not in err


def test_damaged_run_is_one_line(run, texts, tmp_path):
    folder, _ = texts
    for name in ("config.json", "schema.json", "params.safetensors"):
        copy = tmp_path / name.partition(".")[0]
        copy.mkdir()
        for path in (folder / "run").glob("*.*"):
            if path.name != name:
                (copy / path.name).write_bytes(path.read_bytes())
        (copy / name).write_text("{}")
        status, _, err = run("evaluate", copy)
        assert status == 2
        assert len(err.splitlines()) == 1


def test_list_and_help(run):
    status, out, _ = run("list")
    assert status == 0
    assert "yeast" in out
    for arguments in (["--help"], ["train", "--help"], ["train", "yeast", "--help"]):
        status, out, _ = run(*arguments)
        assert status == 0
        assert "train" in out
    assert "--optimizer.learning-rate" in out


def test_missing_extra_names_the_pip_line(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tyro", None)
    status, _, err = run("train", "yeast")
    assert status == 2
    assert err.splitlines() == [
        "zlpr-jax: error: this command needs tyro, which is not installed: "
        'pip install "zlpr-jax[train]"'
    ]


def test_paired_difference_is_students():
    # t(0.975, 2) = 4.302653; differences 1, 2, 3: mean 2, standard error 1/sqrt(3)
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    reach = 4.302652729911275 / np.sqrt(3)
    assert found == pytest.approx({"mean": 2, "low": 2 - reach, "high": 2 + reach})


def test_summary_of_one_seed_has_no_interval():
    scores = dict.fromkeys(MULTILABEL_SCORES, 0.5)
    results = summarize({"zlpr": [scores], "bce": [scores]})
    assert results["zlpr"]["lrap"] == {"mean": 0.5, "std": 0.0, "values": [0.5]}
    assert "zlpr_minus_bce" not in results
