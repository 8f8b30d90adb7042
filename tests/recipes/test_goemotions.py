"""Texts read by a pretrained encoder: train, evaluate, predict, resume, bad inputs."""

import json

import numpy as np
import pytest
from flax import nnx

from zlpr_jax.data.tokenizer import SPECIAL, Tokenizer
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.models.pretrained import save_pretrained
from zlpr_jax.nn import functionalize

WORDS = {"sun": "bright warm", "rain": "wet grey", "wind": "gusty loud"}
TOKENS = (*SPECIAL, *" ".join(WORDS.values()).split(), "day", "##y")
SETTINGS = (
    *("--steps", 20, "--batch-size", 16, "--eval-every", 10, "--save-every", 10),
    *("--text.length", 16, "--text.learning-rate", 1e-2),
    *("--optimizer.learning-rate", 1e-2, "--no-tensorboard"),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder as transformers writes it, with random weights and a masked head."""
    folder = tmp_path_factory.mktemp("encoders") / "bert"
    config = BertConfig(
        vocabulary=len(TOKENS),
        width=16,
        layers=1,
        heads=2,
        hidden=16,
        max_length=16,
        masked_head=True,
    )
    params = functionalize(Bert(config, rngs=nnx.Rngs(0))).params
    save_pretrained(folder, config, params)
    Tokenizer(TOKENS).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The four files of GoEmotions."""
    folder = tmp_path_factory.mktemp("goemotions")
    (folder / "labels.txt").write_text("\n".join(WORDS) + "\n")
    rng = np.random.default_rng(0)
    for part, rows in (("train", 80), ("dev", 20), ("test", 20)):
        lines = []
        for row in range(rows):
            chosen = np.flatnonzero(rng.random(3) < 0.5)
            chosen = chosen if len(chosen) else np.array([0])
            words = " ".join(list(WORDS.values())[i] for i in chosen)
            labels = ",".join(map(str, chosen))
            lines.append(f"{words} day\t{labels}\t{part}{row}\n")
        (folder / f"{part}.tsv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def trained(run, encoder, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    status, out, err = run(
        *("train", "goemotions", "--data", data, "--encoder", encoder),
        *("--run", folder, *SETTINGS, "--losses", "zlpr", "bce", "zlpr_smooth"),
    )
    assert status == 0, err
    return folder, out


def test_table_has_every_loss_with_and_without_a_tuned_threshold(trained):
    folder, out = trained
    results = json.loads((folder / "results.json").read_text())
    losses = ("zlpr", "bce", "zlpr_smooth")
    assert set(results) == {*losses, *(f"{loss}_tuned" for loss in losses)}
    assert "ZLPR" in out
    assert "20 test rows" in out
    assert (folder / "curves.png").stat().st_size > 10_000
    config = json.loads((folder / "config.json").read_text())
    assert set(config["sha256"]) == {"train", "test", "validation", "encoder"}


def test_learns(trained):
    results = json.loads((trained[0] / "results.json").read_text())
    assert results["zlpr_tuned"]["micro_f1"]["mean"] > 0.8


def test_evaluate_and_predict_need_no_encoder(run, trained, data, tmp_path):
    folder, _ = trained
    status, out, err = run("evaluate", folder)
    assert status == 0, err
    results = json.loads((folder / "results.json").read_text())
    assert f"{results['zlpr']['micro_f1']['mean']:.4f}" in out
    rows = tmp_path / "new.jsonl"
    rows.write_text('{"text": "bright warm day"}\n{"text": ""}\n{"text": "odd"}\n')
    status, out, err = run("predict", folder, "--data", rows)
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [set(line["scores"]) for line in lines] == [set(WORDS)] * 3


def test_multilabel_takes_an_encoder_too(run, encoder, write_texts, tmp_path):
    rows = write_texts(tmp_path / "texts.jsonl")
    status, out, err = run(
        *("train", "multilabel", "--data", rows, "--encoder", encoder),
        *("--run", tmp_path / "run", *SETTINGS, "--losses", "zlpr_rdrop"),
    )
    assert status == 0, err
    assert "R-Drop" in out


def test_without_an_encoder_it_is_tfidf(run, data, tmp_path):
    status, out, err = run(
        *("train", "goemotions", "--data", data, "--run", tmp_path / "run"),
        *("--steps", 20, "--losses", "zlpr", "--model.hidden", 8, "--no-tensorboard"),
    )
    assert status == 0, err
    assert "tuned" not in out


def test_bad_input_is_one_line(run, encoder, data, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in encoder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    empty = tmp_path / "empty"
    empty.mkdir()
    train = ("train", "goemotions", "--data", data, "--run", tmp_path / "run")
    for arguments, message in (
        ((*train, "--encoder", empty), "config.json"),
        ((*train, "--encoder", damaged), "model.safetensors"),
        ((*train, "--encoder", encoder, "--text.length", 17), "text.length = 17"),
        ((*train, "--refit"), "refit"),
        ((*train, "--encoder", encoder, "--text.layer-decay", 0), "layer_decay"),
        (("train", "goemotions", "--data", empty), "train.tsv"),
        (("train", "yeast", "--encoder", encoder, *train[4:]), "reads texts"),
    ):
        status, _, err = run(*arguments)
        assert status == 2, (arguments, err)
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
