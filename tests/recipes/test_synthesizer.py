"""`zlpr-jax train synthesizer-text` and `synthesizer-copy`, on tiny texts."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from zlpr_jax._errors import InputError
from zlpr_jax.commands._language_model import load_language_model
from zlpr_jax.data.text import Texts
from zlpr_jax.data.vocabulary import END, UNKNOWN
from zlpr_jax.models.decoder import Decoder
from zlpr_jax.nn import functionalize
from zlpr_jax.recipes import synthesizer_text
from zlpr_jax.recipes._language import components_of
from zlpr_jax.recipes._language_text import choose_vocabulary, make_problem, split

WORDS = ("one", "two", "three", "four", "five", "six")
FILES = {
    *("config.json", "metrics.jsonl", "params.safetensors", "perplexity.png"),
    *("results.json", "vocabulary.json"),
}


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_a_run(counted):
    folder, out = counted.folder, counted.printed
    assert {path.name for path in folder.iterdir()} == FILES
    results, config = read(folder, "results.json"), read(folder, "config.json")
    fixed, mixture = results["models"]
    assert fixed["attention"] == "fixed-random"
    assert mixture["attention"] == "mixture"
    assert mixture["components"] == ["dense", "dot"]
    means = [
        np.mean([seed["validation"]["perplexity"] for seed in row["seeds"]])
        for row in (fixed, mixture)
    ]
    assert results["chosen"] == ("fixed-random", "mixture")[np.argmin(means)]
    assert config["recipe"] == "synthesizer-text"
    assert set(read(folder, "vocabulary.json")["tokens"]) == {
        *("<end>", "<unk>", *WORDS)
    }
    tested = [seed["test"]["perplexity"] for seed in mixture["seeds"]]
    error = np.std(tested, ddof=1) / 2**0.5
    assert f"{np.mean(tested):.2f} ±{error:.2f}" in out
    assert "6 words are known, 0.0% of the" in out
    with Image.open(folder / "perplexity.png") as picture:
        assert picture.size[0] > 500


def test_parameters_of_b(counted):
    fixed, mixture = read(counted.folder, "results.json")["models"]
    layers, d, heads, n = 2, 16, 2, 12
    dot = 2 * (d * d + d)
    dense = d * d + d + d * n + heads * n
    assert fixed["score_parameters"] == 0
    assert mixture["score_parameters"] == layers * (dot + dense)
    alphas = layers * 2 * heads
    added = mixture["parameters"] - fixed["parameters"]
    assert added == mixture["score_parameters"] + alphas


def test_the_model_that_is_kept_has_the_perplexity_that_is_reported(counted):
    folder = counted.folder
    results = read(folder, "results.json")
    model = load_language_model(folder, ("synthesizer-text",))
    row = {row["attention"]: row for row in results["models"]}[results["chosen"]]
    documents = [
        json.loads(line)["text"] for line in counted.data.read_text().splitlines()
    ]
    config = synthesizer_text.Config(level="word", length=12)
    *_, test = split(Texts(documents=tuple(documents), path=""), config)
    assert len(test) == 6
    graph = nnx.eval_shape(lambda: Decoder(model.config, rngs=nnx.Rngs(0)))
    apply = functionalize(graph).apply
    nats, count = 0.0, 0
    for text in test:
        ids = [END, *model.vocabulary.encode(text).tolist(), END]
        logits, _ = jax.jit(apply)(model.params, model.state, jnp.array([ids[:-1]]))
        logits = np.asarray(logits[0], np.float64)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        nats -= logits[np.arange(len(ids) - 1), ids[1:]].sum()
        count += len(ids) - 1
    found = row["seeds"][0]["test"]
    np.testing.assert_allclose(found["perplexity"], np.exp(nats / count), rtol=1e-5)
    np.testing.assert_allclose(found["bits"], nats / count / np.log(2), rtol=1e-5)


@pytest.mark.parametrize(("fit", "step"), [(1, 7), (2, 0)])
def test_interrupted_and_resumed_is_never_interrupted(
    run, stop, counted, tmp_path, monkeypatch, fit, step
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, fit=fit, step=step, how=signal.SIGTERM)
        flags = ("--data", counted.data, "--run", folder, *counted.settings)
        status, out, err = run("train", "synthesizer-text", *flags)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("interrupted at step ")
    status, out, err = run("generate", folder)
    assert (status, out) == (2, "")
    assert "the run is not complete" in err
    status, out, err = run("resume", folder)
    assert (status, err) == (0, "")
    for name in FILES - {"config.json"}:
        expected = (counted.folder / name).read_bytes()
        assert (folder / name).read_bytes() == expected, name


@pytest.mark.slow
def test_eight_devices_give_the_same(run, counted, tmp_path):
    folder = tmp_path / "run"
    flags = (
        "--data",
        counted.data,
        "--run",
        folder,
        *counted.settings,
        "--mesh",
        "data=8",
    )
    flags = (*flags, "--seeds", "1", "--attention", "fixed-random")
    status, _, err = run("train", "synthesizer-text", *flags)
    assert (status, err) == (0, "")
    (ours,) = read(folder, "results.json")["models"]
    one, _ = read(counted.folder, "results.json")["models"]
    for part in ("validation", "test"):
        found, expected = (row["seeds"][0][part]["loss"] for row in (ours, one))
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_characters_of_one_document(run, counted, tmp_path):
    path, folder = tmp_path / "text.txt", tmp_path / "run"
    path.write_text("a cab, a bad cab. " * 60)
    flags = ("--data", path, "--run", folder, *counted.settings, "--seeds", "1")
    flags = (*flags, "--level", "character", "--attention", "mixture")
    status, out, err = run("train", "synthesizer-text", *flags)
    assert (status, err) == (0, "")
    assert "test bits per" in out
    (row,) = read(folder, "results.json")["models"]
    test = row["seeds"][0]["test"]
    np.testing.assert_allclose(2 ** test["bits"], test["perplexity"])
    assert f"{test['bits']:.3f}" in out
    flags = ("--prompt", "a cab, a", "--greedy", "--new", "3")
    status, out, err = run("generate", folder, *flags)
    assert (status, out, err) == (0, "a cab, a ba\n", "")


def test_copy(run, counted, tmp_path):
    folder = tmp_path / "run"
    start = counted.settings.index("--length") + 2  # what is of texts is before
    others = counted.settings[start:]
    flags = ("--shortest", "2", "--longest", "5", "--symbols", "5", "--rows", "200")
    flags = (*flags, "--test-rows", "40", *others, "--seeds", "1", "--run", folder)
    flags = (*flags, "--attention", "mixture")
    status, out, err = run("train", "synthesizer-copy", *flags)
    assert (status, err) == (0, "")
    names = {path.name for path in folder.iterdir()}
    assert names == FILES - {"perplexity.png", "vocabulary.json"} | {"accuracy.png"}
    (row,) = read(folder, "results.json")["models"]
    assert f"{row['seeds'][0]['test']['accuracy']:.4f}" in out
    assert "sequences of 2 to 5 of 5 symbols" in out
    status, out, err = run("show", folder, "--out", tmp_path / "a.png")
    assert (status, err) == (0, "")
    assert "2 layers of 2 heads, 12 tokens" in out
    status, _, err = run("show", folder, "--out", tmp_path / "b.png", "--text", "one")
    assert status == 2
    assert "the run was not trained on text: leave --text out" in err
    status, _, err = run("generate", folder)
    assert status == 2
    assert "a run of the recipe 'synthesizer-copy'" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--attention", "dott"), "attention 'dott' is not known: give one of dot, de"),
        (("--attention", "dot+dot"), "attention 'dot+dot' is not known"),
        (("--attention", "mixture", "dot+dense"), "mixture and dot+dense, which are"),
        (("--attention",), "attention must name at least one"),
        (("--heads", "3"), "width must be a multiple of heads, got 16 and 3"),
        (("--validation", "0.5", "--test", "0.5"), "leave nothing to train on"),
        (("--length", "1"), "length must be >= 2, got 1"),
        (("--min-count", "1000"), "no word occurs 1000 times in the training part"),
        (("--data", "absent.txt"), "absent.txt"),
        (("--data", "EMPTY"), "is empty"),
        (("--data", "LATIN"), "UTF-8"),
        (("--data", "SHORT"), "7 characters are too few to hold out parts"),
        (("--data", "TWO"), "2 documents are too few to hold out 1 for validation"),
    ],
)
def test_bad_settings(run, counted, tmp_path, flags, message):
    files = {
        "EMPTY": ("empty.txt", b" \n"),
        "LATIN": ("latin.txt", "caf\u00e9".encode("latin-1")),
        "SHORT": ("short.txt", b"one two"),
        "TWO": ("two.jsonl", b'{"text": "one"}\n{"text": "two"}\n'),
    }
    named = []
    for flag in flags:
        if flag in files:
            name, content = files[flag]
            (tmp_path / name).write_bytes(content)
            flag = tmp_path / name
        named.append(flag)
    folder = tmp_path / "run"
    flags = ("--data", counted.data, "--run", folder, *counted.settings, *named)
    status, _, err = run("train", "synthesizer-text", *flags)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not folder.exists()


def test_another_text_is_no_resume(
    run, stop, counted, tmp_path, monkeypatch, write_counting
):
    data, folder = write_counting(tmp_path / "counting.jsonl"), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, fit=1, step=5)
        flags = ("--data", data, "--run", folder, *counted.settings)
        run("train", "synthesizer-text", *flags)
    write_counting(data, seed=1)
    status, _, err = run("resume", folder)
    assert status == 2
    assert f"{data}" in err
    assert "not those that the run began with: put the files back" in err


# -- names, parts, vocabulary


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("dot", ("dot",)),
        ("mixture", ("dense", "dot")),
        ("factorized-random+dot", ("factorized-random", "dot")),
    ],
)
def test_components(name, components):
    assert components_of(name) == components


@pytest.mark.parametrize("name", ["", "dot+", "mixture+random", "Dot"])
def test_unknown_components(name):
    with pytest.raises(InputError, match=r"dot, dense, .*, mixture"):
        components_of(name)


def test_documents_are_split_at_random_and_each_is_in_one_part():
    documents = tuple(f"text {number}" for number in range(50))
    config = synthesizer_text.Config(validation=0.1, test=0.2)
    parts = split(Texts(documents=documents, path=""), config)
    assert [len(part) for part in parts] == [35, 5, 10]
    training, validation, test = parts
    assert sorted(training + validation + test) == sorted(documents)
    assert parts[2] != list(documents[-10:])


@pytest.mark.parametrize("level", ["word", "character"])
def test_one_document_is_cut_in_order(level):
    text = " ".join(f"word{number}" for number in range(100))
    config = synthesizer_text.Config(level=level)
    training, validation, test = split(Texts(documents=(text,), path=""), config)
    assert training + validation + test != [text]
    assert "".join(training + validation + test) == text
    sizes = np.array([len(part) for (part,) in (training, validation, test)])
    np.testing.assert_allclose(sizes / len(text), [0.8, 0.1, 0.1], atol=0.02)
    if level == "word":
        words = [
            word for (part,) in (training, validation, test) for word in part.split()
        ]
        assert words == text.split(), "no word is cut"


def test_test_text_has_no_say_in_the_vocabulary():
    training = ["a a b b c", "a d"]
    for count, size, known in (
        (1, None, ["a", "b", "c", "d"]),
        (2, None, ["a", "b"]),
        (1, 4, ["a", "b"]),
    ):
        config = synthesizer_text.Config(
            level="word", min_count=count, vocabulary_size=size
        )
        tokens = choose_vocabulary(training, config).tokens
        assert sorted(tokens[2:]) == known


def test_what_is_shown_of_a_run_is_known():
    documents = ["a b", *["a b a b c a"] * 20, "x"]
    config = synthesizer_text.Config(level="word", min_count=2, length=5)
    problem = make_problem(config, Texts(documents=tuple(documents), path=""))
    shown = problem.entries["shown"]
    assert UNKNOWN not in shown["tokens"]
    assert shown["labels"] == ["<end>", "a", "b", "a", "b"]
