"""Runs from settings files, runs that are interrupted, and `zlpr-jax resume`."""

import json
import os
import re
import signal

import pytest

from zlpr_jax.recipes import _session
from zlpr_jax.training import RunFolder

# Four fits: two losses, each searching and then on all rows.
SETTINGS = """
steps = 30
eval_every = 10
report_every = 4
save_every = 8
batch_size = 16
tensorboard = false
[model]
hidden = [8]
"""
# What a run ends with, whether it was interrupted or not.
OUTCOME = ("metrics.jsonl", "params.safetensors", "predictions.jsonl", "results.json")


@pytest.fixture(scope="module")
def files(write_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_texts(folder / "train.jsonl", rows=40)
    (folder / "settings.toml").write_text('data = "train.jsonl"\n' + SETTINGS)
    return folder


@pytest.fixture
def train(run, files, tmp_path, monkeypatch):
    """Train in the folder of the files, into a new run folder."""

    def train(*flags, folder=tmp_path / "run"):
        monkeypatch.chdir(files)
        config = ["--config", "settings.toml", "--run", folder]
        result = run("train", "multilabel", *config, *flags)
        monkeypatch.chdir(tmp_path)
        return result

    return train


@pytest.fixture(scope="module")
def unbroken(run, files, tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    config = files / "settings.toml"
    data = ["--config", config, "--data", files / "train.jsonl", "--run", folder]
    status, _, err = run("train", "multilabel", *data)
    assert (status, err) == (0, "")
    return folder


def assert_same(folder, other):
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in other.iterdir()
    }
    for name in OUTCOME:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    ("fit", "step", "how", "place"),
    [
        (1, 0, signal.SIGINT, "step 1 of zlpr, seed 0"),
        (1, 20, signal.SIGTERM, "step 2[0-9] of zlpr, seed 0"),
        (2, 4, signal.SIGINT, "step [5-9] of zlpr, seed 0, all rows"),
        (3, 30, signal.SIGTERM, "step 0 of bce, seed 0, all rows"),
    ],
)
def test_interrupted_and_resumed_is_never_interrupted(
    run, train, unbroken, tmp_path, monkeypatch, fit, step, how, place, stop
):
    with monkeypatch.context() as patch:
        begun = stop(patch, fit=fit, step=step, how=how)
        status, out, err = train()
    assert (status, err) == (0, "")
    assert begun == [fit], "no fit after the signal"
    folder = tmp_path / "run"
    last = out.splitlines()[-1]
    assert last.endswith(f"; continue with: zlpr-jax resume {folder}")
    assert re.match(f"interrupted at {place};", last)
    assert not (folder / "results.json").exists()
    status, out, err = run("resume", "run")
    assert (status, err) == (0, "")
    assert "run folder: run" in out
    assert_same(folder, unbroken)


def test_resumed_after_an_error(run, train, unbroken, tmp_path, monkeypatch, stop):
    """As after a kill: what was written after the last checkpoint is done again."""
    with monkeypatch.context() as patch:
        stop(patch, fit=4, step=20, how=ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            train()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 20
    assert (tmp_path / "run" / "checkpoints" / "bce-0-refit" / "16").exists()
    assert run("resume", tmp_path / "run")[0] == 0
    assert_same(tmp_path / "run", unbroken)


def test_resume_of_a_complete_run(run, unbroken):
    before = {path: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    status, out, err = run("resume", unbroken)
    assert (status, err) == (0, "")
    assert out == f"{unbroken}: the run is complete, there is nothing to resume\n"
    assert {path: path.stat().st_mtime_ns for path in unbroken.iterdir()} == before
    assert not (unbroken / "checkpoints").exists()


@pytest.fixture(scope="module")
def incomplete(run, files, tmp_path_factory):
    """A run that was interrupted before its first fit, twice a test may copy."""
    folder = tmp_path_factory.mktemp("incomplete") / "run"
    patch = pytest.MonkeyPatch()
    with patch.context():
        real = _session.any_process
        patch.setattr(_session, "any_process", lambda flag: real(True))
        patch.chdir(files)
        status, out, _ = run(
            "train", "multilabel", "--config", "settings.toml", "--run", folder
        )
    patch.undo()
    assert status == 0
    assert "interrupted at step 0 of zlpr, seed 0;" in out
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"recipe": "yeats"},
            "recipe must be one of yeast, multilabel, mlm, goemotions, eae, "
            "synthesizer-text, synthesizer-copy, got 'yeats'",
        ),
        ({"settings": None}, "config.json, settings: the whole must be an object"),
        ({"settings": {"seeds": 1}}, "settings: data is missing"),
        ({"stteps": 3}, "there is no setting stteps; the nearest is steps"),
        ({"steps": "3"}, "steps must be an integer, or null, got '3'"),
        ({"data": "absent.jsonl"}, "absent.jsonl"),
        ({"test_share": 0.5}, "are not those that the run began with"),
    ],
)
def test_damaged_config_is_one_line(run, incomplete, tmp_path, changes, reason):
    stored = json.loads((incomplete / "config.json").read_text())
    for name, value in changes.items():
        place = stored if name in stored else stored["settings"]
        place[name] = value
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    status, _, err = run("resume", tmp_path / "run")
    assert status == 2
    assert err.startswith("zlpr-jax: error: ")
    assert len(err.splitlines()) == 1
    assert reason in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_resume_without_a_config(run, tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    status, _, err = run("resume", tmp_path)
    assert status == 2
    assert "config.json" in err
    assert len(err.splitlines()) == 1


def test_other_settings_do_not_fit_the_checkpoint(
    run, train, tmp_path, monkeypatch, stop
):
    with monkeypatch.context() as patch:
        stop(patch, step=12)
        assert train()[0] == 0
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    stored["settings"]["clip_norm"] = 1.0
    path.write_text(json.dumps(stored))
    status, _, err = run("resume", tmp_path / "run")
    assert status == 2
    assert "clip_norm was None and is 1.0" in err
    assert path.exists()


def test_commands_on_an_incomplete_run_name_the_command(run, incomplete):
    for command in (["evaluate"], ["predict", "--data", "x.jsonl"]):
        status, _, err = run(command[0], incomplete, *command[1:])
        assert status == 2
        assert err == (
            f"zlpr-jax: error: {incomplete}: the run is not complete: finish it with "
            f"`zlpr-jax resume {incomplete}`.\n"
        )


def test_two_processes_do_not_train_in_one_folder(run, incomplete):
    with RunFolder.open(incomplete):
        status, _, err = run("resume", incomplete)
    assert status == 2
    assert "another process trains in this run folder" in err


def test_train_into_an_incomplete_run_names_the_command(train, incomplete):
    status, _, err = train(folder=incomplete)
    assert status == 2
    assert f"go on with `zlpr-jax resume {incomplete}`" in err


def test_resume_on_a_mesh(run, train, unbroken, tmp_path, monkeypatch, stop):
    with monkeypatch.context() as patch:
        stop(patch, step=12)
        assert train("--losses", "zlpr", "--no-refit")[0] == 0
    status, _, err = run("resume", "run", "--mesh", "data=2", "--no-verify")
    assert (status, err) == (0, "")
    *rows, test = (
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    )
    assert "test" in test
    with (unbroken / "metrics.jsonl").open() as stream:
        for row, line in zip(rows, stream, strict=False):
            other = json.loads(line)
            assert row["step"] == other["step"]
            loss = other["train"]["loss"]
            assert row["train"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert row["step"] == 30


def test_diverging_keeps_the_last_finite_state(train, tmp_path):
    status, _, err = train("--optimizer.learning-rate", "1e30", "--eval-every", "30")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "not finite" in err
    assert "Lower the learning rate" in err
    (fit,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert fit.name == "zlpr-0-search"
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum("skipped" in json.loads(row) for row in rows) >= 10


def test_every_way_to_train_is_a_flag(train, tmp_path):
    status, _, err = train(
        "--losses", "zlpr", "--no-refit", "--accumulate", "2", "--clip-norm", "1",
        "--ema", "0.9", "--compute-dtype", "bfloat16", "--remat", "--patience", "None",
        "--skip-limit", "3", "--no-verify", "--keep-last", "1", "--save-every", "10",
        "--keep-checkpoints", "--tensorboard", "--profile", "2",
    )  # fmt: skip
    assert (status, err) == (0, "")
    folder = tmp_path / "run"
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert (settings["accumulate"], settings["compute_dtype"]) == (2, "bfloat16")
    assert settings["patience"] is None
    steps = {path.name for path in (folder / "checkpoints/zlpr-0-search").iterdir()}
    assert "30" in steps
    assert list(folder.glob("profile/**/*.xplane.pb"))
    assert list(folder.glob("tensorboard/zlpr-0-search/events*"))


def test_flags_override_the_file(train, tmp_path, files, monkeypatch):
    monkeypatch.setattr(_session, "any_process", lambda flag: True)
    assert train("--steps", "7", "--optimizer.b1", "0.5")[0] == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    settings = stored["settings"]
    assert (settings["steps"], settings["eval_every"]) == (7, 10)
    assert settings["optimizer"]["b1"] == 0.5
    assert settings["model"]["hidden"] == [8]
    assert settings["model"]["dropout"] == 0.5, "decided, not left open"
    assert settings["losses"] == ["zlpr", "bce"]
    # relative paths hold in any directory
    assert settings["data"] == str(files / "train.jsonl")
    assert os.path.isabs(settings["run"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stepps = 3", "s.toml: there is no setting stepps; the nearest is steps."),
        ("[optimizer]\nb1 = '0.9'", "s.toml: optimizer.b1 must be a number, got '0.9'"),
        ("[model]\ndropout = 2", "s.toml: model.dropout must be >= 0 and < 1, got 2.0"),
        ("seeds =", "s.toml: not readable as settings"),
        (None, "s.toml: not readable as settings"),
    ],
)
def test_bad_settings_file_is_one_line(run, tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "s.toml").write_text(text)
    status, _, err = run("train", "yeast", "--config", "s.toml")
    assert status == 2
    assert err.startswith(f"zlpr-jax: error: {reason}")
    assert len(err.splitlines()) == 1


def test_what_neither_file_nor_flags_give(run, tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"seeds": 2}')
    status, _, err = run("train", "multilabel", "--config", path)
    assert status == 2
    assert "--data" in err
    assert "Traceback" not in err


def test_unknown_flag_names_the_nearest(run, tmp_path):
    status, _, err = run("train", "yeast", "--optimizer.lerning-rate", "1")
    assert status == 2
    assert "--optimizer.learning-rate" in err
    assert "Traceback" not in err
    status, out, _ = run("train", "yeast", "--help")
    assert "--config FILE" in out
    assert "{None}|{float32" not in out
