"""`zlpr-jax generate` and `show`, on a model that learned to count."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from zlpr_jax.commands import show


@pytest.fixture
def trained(counted):
    return counted.folder


@pytest.mark.parametrize(
    ("prompt", "flags", "text"),
    [
        ("two three", (), "two three four five six one two three"),
        ("five", ("--new", "3"), "five six one two"),
        # what was typed is printed as it was
        ("  two   three ", ("--new", "1"), "  two   three four"),
    ],
)
def test_it_goes_on_to_the_end(run, trained, prompt, flags, text):
    flags = ("--prompt", prompt, "--greedy", *flags)
    status, out, err = run("generate", trained, *flags)
    assert (status, out, err) == (0, f"{text}\n", "")


def test_many_texts_from_nothing(run, trained):
    status, out, err = run("generate", trained, "--n", "20", "--seed", "3")
    assert (status, err) == (0, "")
    texts = out.removesuffix("\n").split("\n---\n")
    assert len(texts) == 20
    starts = {text.split()[0] for text in texts if text}
    assert len(starts) > 3, "all words are as likely"
    whole = [text for text in texts if re.fullmatch(r"(\w+ ){7}\w+", text)]
    assert len(whole) > 8
    assert run("generate", trained, "--n", "20", "--seed", "3")[1] == out
    assert run("generate", trained, "--n", "20", "--seed", "4")[1] != out
    # one token of the most likely: no draw is left
    _, one, _ = run("generate", trained, "--prompt", "two", "--top-k", "1")
    assert one == "two three four five six one two three\n"


def test_unknown_words_are_named(run, trained):
    flags = ("--prompt", "one seven seven eight two", "--greedy", "--new", "1")
    status, out, err = run("generate", trained, *flags)
    assert status == 0
    assert out.startswith("one seven seven eight two ")
    assert "does not know the words 'seven', 'eight': <unk> is read instead" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--temperature", "0"), "temperature must lie in (0, inf), got 0"),
        (("--temperature", "nan"), "temperature must lie in (0, inf), got nan"),
        (("--top-k", "0"), "top_k must be >= 1, got 0"),
        (("--top-k", "9"), "top_k must be at most 8, the size of the vocabulary"),
        (("--top-p", "0"), "top_p must lie in (0, 1], got 0"),
        (("--top-p", "1.5"), "top_p must lie in (0, 1], got 1.5"),
        (("--repetition-penalty", "-1"), "repetition_penalty must lie in (0, inf)"),
        (("--new", "0"), "--new must be >= 1, got 0"),
        (("--n", "0"), "--n must be in [1, 100], got 0"),
        (("--greedy", "--top-k", "2"), "--greedy always takes the most likely token"),
        (("--greedy", "--n", "2"), "--greedy always takes the most likely token"),
        (("--new", "12"), "but a text has 12 at most: shorten the prompt, or give --n"),
        (("--prompt", "one " * 12), "the prompt has 13 tokens with <end> before it"),
        (("--prompt", "one " * 11), "12 at most, with what is added: shorten"),
    ],
)
def test_bad_arguments(run, trained, flags, message):
    status, out, err = run("generate", trained, *flags)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_no_run(run, trained, tmp_path):
    status, _, err = run("generate", tmp_path / "absent")
    assert status == 2
    assert "no such run folder" in err
    status, _, err = run("sample", trained)
    assert status == 2
    assert "a run of the recipe 'synthesizer-text'" in err


def test_a_damaged_run_is_named(run, trained, tmp_path):
    for name, content in (
        ("vocabulary.json", '{"level": "word", "tokens": ["<end>", "<unk>", "one"]}'),
        ("vocabulary.json", '{"level": "word"}'),
        ("results.json", "{}"),
        ("config.json", '{"recipe": "synthesizer-text"}'),
    ):
        folder = tmp_path / f"{name}-{len(content)}"
        folder.mkdir()
        for path in trained.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / name).write_text(content)
        for command in ("generate", "show"):
            status, out, err = run(command, folder)
            assert (status, out) == (2, "")
            assert err.count("\n") == 1


# -- show


def pixels(path):
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_show(run, trained, tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    status, out, err = run("show", trained, "--out", a)
    assert (status, err) == (0, "")
    assert re.fullmatch(f"{a}: 2 layers of 2 heads, [0-9]+ tokens\n", out)
    status, out, err = run("show", trained, "--out", b, "--text", "one two three")
    assert (status, out) == (0, f"{b}: 2 layers of 2 heads, 4 tokens\n")
    assert pixels(a).shape[1] > 500
    for flags, message in (
        (("--out", a), "a.png: exists: name another file"),
        (("--out", tmp_path / "a.gif"), "pictures are written as .png"),
        (("--out", tmp_path / "absent" / "a.png"), "cannot be written"),
        (("--out", tmp_path / "c.png", "--text", "one " * 12), "has 13 tokens with"),
    ):
        status, out, err = run("show", trained, *flags)
        assert (status, out) == (2, "")
        assert message in err
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_a_picture_of_any_token(tmp_path):
    """White space, mathematics and characters that no font has raise no warning."""
    labels = ["<end>", "\n", " ", "$x$", "$", "\u4e2d", "\U0001f600", "a" * 40]
    path = tmp_path / "a.png"
    show.draw(str(path), np.eye(8, dtype=np.float32)[None, None], labels, "$ and \\")
    one = pixels(path)
    # dark on the diagonal, light elsewhere
    show.draw(
        str(tmp_path / "b.png"),
        np.zeros((1, 1, 8, 8), np.float32),
        labels,
        "$ and \\",
    )
    other = pixels(tmp_path / "b.png")
    assert one.shape == other.shape
    differs = (one != other).any(-1).mean()
    assert 0.02 < differs < 0.12


def test_many_tokens_are_not_named(tmp_path):
    path = tmp_path / "a.png"
    attended = np.full((1, 2, 64, 64), 1 / 64, np.float32)
    show.draw(str(path), attended, ["token"] * 64, "many")
    assert pixels(path).shape[1] > 500
