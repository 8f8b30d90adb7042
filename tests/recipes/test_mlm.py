"""`zlpr-jax train mlm`, on tiny texts of Chinese."""

import json
import signal

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from zlpr_jax._errors import InputError
from zlpr_jax.data.lines import Line, segment_lines, split_lines
from zlpr_jax.data.text import Texts, read_texts
from zlpr_jax.data.tokenizer import SPECIAL, Tokenizer
from zlpr_jax.models.bert import Bert
from zlpr_jax.models.pretrained import from_pretrained, save_pretrained
from zlpr_jax.nn import functionalize
from zlpr_jax.recipes._mlm_text import make_problem, split
from zlpr_jax.recipes.mlm import Config
from zlpr_jax.tasks import masked
from zlpr_jax.training import evaluate

CITIES = ("北京", "上海", "天津", "重庆")
FILES = {"config.json", "encoder", "loss.png", "metrics.jsonl", "results.json"}
ENCODER = {"config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"}
SHAPE = ("--width", "16", "--layers", "1", "--heads", "2")
SETTINGS = (
    *("--length", "20", "--steps", "60", "--eval-every", "20", "--batch-size", "16"),
    *("--save-every", "15", "--report-every", "10", "--dropout", "0"),
    *("--optimizer.learning-rate", "1e-2", "--no-tensorboard"),
)


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def write_lines(path, documents):
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in documents)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Cities in their order, from any one on; and the same with white space."""
    folder = tmp_path_factory.mktemp("cities")
    starts = np.random.default_rng(0).integers(0, 4, 60)
    words = [[CITIES[(start + i) % 4] for i in range(8)] for start in starts]
    write_lines(folder / "text.jsonl", map("".join, words))
    write_lines(folder / "words.jsonl", map(" ".join, words))
    return folder


@pytest.fixture(scope="module")
def flags(files):
    data = ("--data", files / "text.jsonl", "--segmentation", files / "words.jsonl")
    return (*data, *SETTINGS, *SHAPE)


@pytest.fixture(scope="module")
def made(run, flags, tmp_path_factory, compile_once):
    """A run that nothing happened to, and what it printed."""
    folder = tmp_path_factory.mktemp("made") / "run"
    status, out, err = run("train", "mlm", "--run", folder, *flags)
    assert (status, err) == (0, "")
    return folder, out


def test_a_run(made):
    folder, out = made
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.name for path in (folder / "encoder").iterdir()} == ENCODER
    results, config = read(folder, "results.json"), read(folder, "config.json")
    (seed,) = results["seeds"]
    assert results["chosen"] == 0
    assert seed["loss"] < 0.9 * results["unigram"]["loss"]
    assert seed["perplexity"] == pytest.approx(np.exp(seed["loss"]))
    np.testing.assert_allclose(results["unigram"]["loss"], np.log(8), rtol=0.02)
    assert config["recipe"] == "mlm"
    assert config["rows"] == {"training": 54, "validation": 6}
    lines = out.splitlines()
    assert any(f"{seed['loss']:.3f}" in line and "seed 0" in line for line in lines)
    assert any(f"{results['unigram']['loss']:.3f}" in line for line in lines)
    assert "13 tokens are known, 0.0% of the held-out ones are not; 54 rows" in out
    assert lines[-1].endswith(f"multilabel --data FILE --encoder {folder / 'encoder'}")
    with Image.open(folder / "loss.png") as picture:
        assert picture.size[0] > 500


def test_the_encoder_is_the_one_that_was_scored(made, files):
    folder, _ = made
    found = from_pretrained(folder / "encoder")
    assert (found.config.width, found.config.max_length) == (16, 20)
    assert (found.config.masked_head, found.config.pooler) == (True, False)
    assert found.unexpected == ()
    tokenizer = Tokenizer.load(folder / "encoder")
    assert set(tokenizer.tokens) == {*SPECIAL, *"北京上海天津重庆"}
    shape = {"width": 16, "layers": 1, "heads": 2, "length": 20}
    config = Config(segmentation=files / "words.jsonl", **shape)
    problem = make_problem(config, read_texts(files / "text.jsonl"))
    assert problem.tokenizer == tokenizer
    assert problem.validation.word_counts().tolist() == [8] * 6
    task = masked.make(
        found.config,
        places=problem.places,
        mask_id=tokenizer.mask_id,
        special=problem.special,
    )
    _, state = jax.jit(task.init)(jax.random.key(0))
    scores, _ = evaluate(task, found.params, state, problem.validation, 16)
    (seed,) = read(folder, "results.json")["seeds"]
    assert scores == {name: pytest.approx(seed[name], rel=1e-5) for name in scores}


def test_interrupted_and_resumed_is_never_interrupted(
    run, stop, made, flags, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, step=33, how=signal.SIGTERM)
        status, out, err = run("train", "mlm", "--run", folder, *flags)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("interrupted at step ")
    assert not (folder / "encoder").exists()
    # as if it had been killed between the encoder and the results
    (folder / "encoder").mkdir()
    (folder / "encoder" / "model.safetensors").write_bytes(b"half")
    status, out, err = run("resume", folder)
    assert (status, err) == (0, "")
    assert {path.name for path in folder.iterdir()} == FILES
    for name in (
        *FILES - {"config.json", "encoder"},
        *(f"encoder/{n}" for n in ENCODER),
    ):
        assert (folder / name).read_bytes() == (made[0] / name).read_bytes(), name


def test_going_on_with_an_encoder(run, made, files, tmp_path):
    """It begins where the other one ended, with the same tokenizer and shape."""
    encoder, data = made[0] / "encoder", files / "text.jsonl"
    words = ("--segmentation", files / "words.jsonl")
    settings = (*SETTINGS, "--steps", "1", "--optimizer.learning-rate", "1e-9")
    settings = ("--data", data, *words, "--encoder", encoder, *settings)
    status, _, err = run("train", "mlm", "--run", tmp_path / "run", *settings)
    assert (status, err) == (0, "")
    (ours,), (theirs,) = (
        read(folder, "results.json")["seeds"] for folder in (tmp_path / "run", made[0])
    )
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    vocabulary = (tmp_path / "run/encoder/vocab.txt").read_bytes()
    assert vocabulary == (encoder / "vocab.txt").read_bytes()


def test_an_encoder_without_a_masked_head_gets_one(made, files, tmp_path):
    found = from_pretrained(made[0] / "encoder", masked_head=False)
    save_pretrained(tmp_path / "bare", found.config, found.params)
    Tokenizer.load(made[0] / "encoder").save(tmp_path / "bare")
    config = Config(encoder=tmp_path / "bare", length=20, dropout=0.2)
    problem = make_problem(config, read_texts(files / "text.jsonl"))
    assert problem.network.masked_head
    assert (problem.network.dropout, problem.network.attention_dropout) == (0.2, 0.2)
    shapes = jax.eval_shape(
        lambda: functionalize(Bert(problem.network, rngs=nnx.Rngs(0))).params
    )
    assert set(shapes) - set(problem.params) == {"masked_head"}


@pytest.mark.slow
def test_on_a_mesh_with_other_positions(run, flags, made, tmp_path):
    losses = []
    for name, mesh in (("one", ()), ("mesh", ("--mesh", "data=2,fsdp=2"))):
        folder = tmp_path / name
        more = ("--positions", "relative", "--steps", "20", *mesh, "--run", folder)
        status, _, err = run("train", "mlm", *flags, *more)
        assert (status, err) == (0, "")
        losses.append(read(folder, "results.json")["seeds"][0]["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--data", "EMPTY"), "empty.txt: is empty"),
        (("--data", "LATIN"), "latin.txt:1: byte 0xe9 is not UTF-8"),
        (("--data", "LINE"), "line.txt: it is a single line, of which nothing can be"),
        (("--data", "ONE"), "one.jsonl: it is a single line"),
        (("--data", "absent.txt"), "absent.txt: no such file"),
        (("--segmentation", "OTHER"), "other.jsonl:2: the words are not those of the"),
        (("--segmentation", "ONE"), "one.jsonl: holds 1 documents, "),
        (("--vocabulary", "NO_MASK"), "without [MASK]"),
        (("--vocabulary", "FOREIGN"), "the training part has no token that the"),
        (
            ("--vocabulary", "FOREIGN", "--vocabulary-size", "9"),
            "leave one of them out",
        ),
        (("--vocabulary-size", "5"), "vocabulary_size must be >= 6, got 5"),
        (("--length", "7"), "length must be >= 8, got 7"),
        (("--heads", "3"), "width must be a multiple of heads, got 16 and 3"),
        (("--heads", "16", "--positions", "rotary"), "need heads of an even width"),
        (("--share", "0"), "share must be in (0, 1], got 0.0"),
        (("--dropout", "1"), "dropout must be >= 0 and < 1, got 1.0"),
        (("--validation", "1"), "validation must be > 0 and < 1, got 1.0"),
        (("--encoder", "absent"), "width is that of the encoder that --encoder names"),
    ],
)
def test_bad_input_is_one_line(run, files, flags, tmp_path, given, message):
    first = read_texts(files / "text.jsonl").documents[0]
    contents = {
        "EMPTY": ("empty.txt", b" \n"),
        "LATIN": ("latin.txt", "caf\u00e9".encode("latin-1")),
        "LINE": ("line.txt", "一行".encode() * 50),
        "NO_MASK": ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"),
        "FOREIGN": ("foreign.txt", "\n".join((*SPECIAL, "a")).encode()),
        "ONE": ("one.jsonl", json.dumps({"text": first}).encode()),
    }
    named = []
    for flag in given:
        if flag == "OTHER":
            words = read_texts(files / "words.jsonl").documents
            changed = words[1].replace("北京", "南京")
            flag = write_lines(
                tmp_path / "other.jsonl", (words[0], changed, *words[2:])
            )
        elif flag in contents:
            name, content = contents[flag]
            flag = tmp_path / name
            flag.write_bytes(content)
        named.append(flag)
    if "--data" in given:
        flags = (*flags[:2], *flags[4:])  # no segmentation
    folder = tmp_path / "run"
    status, _, err = run("train", "mlm", *flags, "--run", folder, *named)
    assert status == 2
    assert err.startswith("zlpr-jax: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not folder.exists()


def test_an_encoder_that_is_too_short(run, made, files, tmp_path):
    settings = ("--data", files / "text.jsonl", "--encoder", made[0] / "encoder")
    status, _, err = run("train", "mlm", *settings, "--run", tmp_path / "run")
    assert status == 2
    assert "the encoder has 20 positions, which is less than length = 128" in err


# -- lines and parts


def texts_of(*documents):
    return Texts(documents=documents, path="given.txt")


def test_lines_with_their_words(tmp_path):
    given = texts_of("北京\n\n上海 天津\n")
    assert split_lines(given) == [(Line("北京"), Line("上海 天津"))]
    path = tmp_path / "words.txt"
    path.write_text("北 京\n \n上海  天津", encoding="utf-8")
    assert segment_lines(given, path) == [
        (Line("北京", ("北", "京")), Line("上海 天津", ("上海", "天津")))
    ]


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (
            "北京\n上海",
            "北京\n上 天",
            r":2: .* 1 .* have '天', the text has '海'",
        ),
        ("北京\n上海", "北京", r":2: .* they have nothing more, the text has '上海'"),
        ("北京", "北京\n\n\n天", r":4: .* have '天', the text has nothing more"),
    ],
)
def test_words_of_other_lines(tmp_path, text, words, message):
    path = tmp_path / "words.txt"
    path.write_text(words, encoding="utf-8")
    with pytest.raises(InputError, match=f"words.txt{message}"):
        segment_lines(texts_of(text), path)


def test_words_of_a_folder_name_the_file(tmp_path):
    for name, text in (("a.txt", "北 京"), ("b.txt", "上 天")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"b.txt:1: "):
        segment_lines(texts_of("北京", "上海"), tmp_path)


def test_parts():
    documents = split_lines(texts_of(*(f"text {i}" for i in range(50))))
    training, held_out = split(documents, 0.2, "x")
    assert (len(training), len(held_out)) == (40, 10)
    assert sorted(training + held_out) == sorted(documents)
    assert split(documents, 0.2, "x") == (training, held_out)
    assert held_out != documents[-10:]
    # of a single document the end
    one = split_lines(texts_of("\n".join(f"line {i:02}" for i in range(50))))
    (training,), (held_out,) = split(one, 0.2, "x")
    assert (training, held_out) == (one[0][:40], one[0][40:])
    two = split_lines(texts_of("a\nb"))
    assert split(two, 0.9, "x") == ([two[0][:1]], [two[0][1:]])
    with pytest.raises(InputError, match="2 documents are too few to hold out 2"):
        split(split_lines(texts_of("a", "b")), 0.9, "x")
