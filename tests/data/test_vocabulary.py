"""Text to ids and back."""

import json
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zlpr_jax._errors import InputError
from zlpr_jax.data.vocabulary import END, UNKNOWN, Vocabulary

# Any code point there is, lone surrogates too.
ANY = st.text(st.characters(codec=None), max_size=60)
PROSE = st.text("ab_9é字'’ .,;!?()-\n\t\r\u2028\x00👍<>", max_size=60)
HARD = "\x00\ud83d\ude00👍\u2028\r\n<end>İ\u0301"


def known(documents, level, size=None):
    return Vocabulary.build(documents, level, size=size)


@given(st.lists(ANY, min_size=1, max_size=4))
@example([HARD])
def test_characters_are_exact(documents):
    vocabulary = known(documents, "character")
    for text in documents:
        ids = vocabulary.encode(text)
        assert ids.dtype == np.int32
        assert len(ids) == len(text)
        assert vocabulary.decode(ids) == text
        assert not np.isin(ids, (END, UNKNOWN)).any()


@given(st.lists(PROSE | ANY, min_size=1, max_size=4))
@example(["Don't stop, it's (\"fine\")... 'tis\n\n the  end."])
def test_words_are_exact_but_for_white_space(documents):
    """Nothing but white space is lost; and what is decoded is encoded to the same."""
    vocabulary = known(documents, "word")
    for text in documents:
        ids = vocabulary.encode(text)
        assert not np.isin(ids, (END, UNKNOWN)).any()
        decoded = vocabulary.decode(ids)
        ignored = re.compile(r"[^\S\n]")
        assert ignored.sub("", decoded) == ignored.sub("", text)
        np.testing.assert_array_equal(vocabulary.encode(decoded), ids)


@given(st.data())
def test_any_ids_come_back_as_words(data):
    words = ["a", "don't", "’", "'", ".", "(", ")", "\n", "—", "9", "_x"]
    vocabulary = known([" ".join(words)], "word")
    ids = st.lists(st.integers(2, len(vocabulary) - 1), max_size=20)
    drawn = data.draw(ids)
    text = vocabulary.decode(drawn)
    assert vocabulary.encode(text).tolist() == drawn


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't know.", ["I", "don't", "know", "."]),
        ("'quoted' o’clock", ["'", "quoted", "'", "o’clock"]),
        ("rock'n'roll's", ["rock'n'roll's"]),
        ("a''b", ["a", "'", "'", "b"]),
        ("x_1 = 3.14\r\n\ty", ["x_1", "=", "3", ".", "14", "\n", "y"]),
        ("漢字 für İ", ["漢字", "für", "İ"]),
        ("a\u00a0b\u2028c\x1cd\x00", ["a", "b", "c", "d", "\x00"]),
        ("<end><unk>", ["<", "end", ">", "<", "unk", ">"]),
        ("", []),
    ],
)
def test_what_a_word_is(text, words):
    vocabulary = known([text], "word")
    tokens = [vocabulary.tokens[number] for number in vocabulary.encode(text)]
    assert tokens == words


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("Hi ,  you ( two ) !\n\n  It's  me", "Hi, you ( two)!\n\nIt's me"),
        ("\n. a", "\n. a"),
        ("50 % [ x ] ; y : z ?", "50% [ x]; y: z?"),
    ],
)
def test_words_are_joined(text, decoded):
    vocabulary = known([text], "word")
    assert vocabulary.decode(vocabulary.encode(text)) == decoded


@pytest.mark.parametrize("level", ["character", "word"])
def test_special_tokens_are_no_text(level):
    vocabulary = known(["an <end> and an <unk>"], level)
    ids = vocabulary.encode("<end><unk>")
    assert END not in ids
    assert UNKNOWN not in ids
    assert vocabulary.decode([END, UNKNOWN]).replace(" ", "") == "<end><unk>"
    assert vocabulary.encode("?").tolist() == [UNKNOWN]


def test_order_and_size():
    documents = ["b a c", "c b c", "B"]
    full = known(documents, "word")
    assert full.tokens == ("<end>", "<unk>", "c", "b", "B", "a")
    assert len(full) == 6
    cut = known(documents, "word", size=4)
    assert cut.tokens == full.tokens[:4]
    assert cut.encode("a b c").tolist() == [UNKNOWN, 3, 2]
    assert known(documents, "word", size=100) == full
    assert known(iter(documents), "character").tokens[2:5] == (" ", "c", "b")


@given(st.lists(ANY, max_size=3), st.sampled_from(["character", "word"]))
@example([HARD], "character")
def test_json(documents, level):
    vocabulary = known(documents, level)
    written = json.dumps(vocabulary.to_json()).encode()
    assert Vocabulary.from_json(json.loads(written)) == vocabulary


GOOD = {"level": "word", "tokens": ["<end>", "<unk>", "a", "b"]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no object"),
        ([], "no object"),
        ({"level": "word"}, "no object"),
        (GOOD | {"size": 4}, "no object"),
        (GOOD | {"tokens": "ab"}, "no list of strings"),
        (GOOD | {"tokens": ["<end>", "<unk>", 3]}, "no list of strings"),
        (GOOD | {"tokens": []}, "first tokens must be <end>, <unk>"),
        (GOOD | {"tokens": ["<unk>", "<end>", "a"]}, "first tokens must be"),
        (GOOD | {"tokens": [*GOOD["tokens"], "a"]}, "'a' is there twice"),
        (GOOD | {"tokens": [*GOOD["tokens"], "<end>"]}, "'<end>' must be one word"),
        (GOOD | {"tokens": [*GOOD["tokens"], "a b"]}, "'a b' must be one word"),
        (GOOD | {"tokens": [*GOOD["tokens"], ""]}, "'' must be one word"),
        (GOOD | {"tokens": [*GOOD["tokens"], " "]}, "' ' must be one word"),
        (
            {"level": "character", "tokens": ["<end>", "<unk>", "ab"]},
            "'ab' must be one character",
        ),
    ],
)
def test_damaged_json(value, reason):
    with pytest.raises(InputError, match=f"the vocabulary is damaged .*{reason}"):
        Vocabulary.from_json(value)


@pytest.mark.parametrize("ids", [[-1], [0, 5], np.int32([9])])
def test_ids_that_are_none(ids):
    with pytest.raises(ValueError, match=r"ids must be in \[0, 5\), got"):
        known(["abc"], "character").decode(ids)


@pytest.mark.parametrize("size", [-1, 2])
def test_no_room_for_a_token(size):
    with pytest.raises(ValueError, match=f"special tokens, got {size}"):
        known(["a"], "word", size=size)
