"""WordPiece: ids and offsets, against the library's own BERT and by hand."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zlpr_jax.data.tokenizer import (
    SPECIAL,
    Encoding,
    Tokenizer,
    words_of_segmentation,
)

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

TOKENS = (
    *SPECIAL,
    *"abceino1，北京的年①ßσか👍ａ[]-=",
    *("cafe", "is", "2019", "unk", "ᄒ"),
    *("##a", "##b", "##e", "##n", "##1", "##①", "##σ", "##ing", "##ᅡ", "##ᆫ"),
)
PIECES = Tokenizer(TOKENS)
SPLIT = Tokenizer(TOKENS, split_unknown=True)
CHARACTERS = Tokenizer(TOKENS, level="character")

# Of any text, and of such as it is hard to cut.
HARD = "ab1eE中北年İ①②ﬁ각한Ａａσςが👍👩 ,-[]#\u0301\u200b\u200d\u2028\x00\x85\t\n\ufeff"
ANY = st.text(max_size=40) | st.text(HARD, max_size=40)


def spelled(encoding: Encoding, tokens: tuple[str, ...] = TOKENS) -> str:
    return " ".join(tokens[number] for number in encoding.ids)


def places(encoding: Encoding) -> str:
    """The offsets of all but [CLS] and [SEP]."""
    return " ".join(f"{start}:{end}" for start, end in encoding.offsets[1:-1])


# text, tokens, offsets, words
GOLDEN = [
    ("", "", "", []),
    (" \u3000", "", "", []),
    ("北京", "北 京", "0:1 1:2", [0, 1]),
    ("北 京", "北 京", "0:1 2:3", [0, 1]),
    ("A-b", "a - b", "0:1 1:2 2:3", [0, 1, 2]),
    ("cing", "c ##ing", "0:1 1:4", [0, 0]),
    ("2019年", "2019 年", "0:4 4:5", [0, 1]),
    # lower() of the first has two characters
    ("İs北", "is 北", "0:2 2:3", [0, 1]),
    ("ΣΣ", "σ ##σ", "0:1 1:2", [0, 0]),
    ("ß", "ß", "0:1", [0]),
    # accents, composed and not
    ("Café", "cafe", "0:4", [0]),
    ("cafe\u0301", "cafe", "0:4", [0]),
    ("e\u0301e", "e ##e", "0:1 2:3", [0, 0]),
    ("\u0301a", "a", "1:2", [0]),
    ("≠が", "= か", "0:1 1:2", [0, 1]),
    # one Hangul syllable, and the same decomposed
    ("한", "ᄒ ##ᅡ ##ᆫ", "0:1 0:1 0:1", [0, 0, 0]),
    ("\u1112\u1161\u11ab", "ᄒ ##ᅡ ##ᆫ", "0:1 1:2 2:3", [0, 0, 0]),
    # white space, and characters that are dropped
    ("a\u2028b", "a b", "0:1 2:3", [0, 1]),
    ("a\tb\r\n", "a b", "0:1 2:3", [0, 1]),
    ("a\x00b", "a ##b", "0:1 2:3", [0, 0]),
    ("a\u200bb", "a ##b", "0:1 2:3", [0, 0]),
    ("a\xadb\x7f", "a ##b", "0:1 2:3", [0, 0]),
    ("\ufeffa\ufffd", "a", "1:2", [0]),
    ("\x85a", "a", "1:2", [0]),
    ("a\ud83db", "a ##b", "0:1 2:3", [0, 0]),
    # full width, emoji
    ("Ａ1", "ａ ##1", "0:1 1:2", [0, 0]),
    ("👍，", "👍 ，", "0:1 1:2", [0, 1]),
    ("👍\u200d👍", "[UNK]", "0:3", [0]),
    # words that are not known
    ("①①①", "① ##① ##①", "0:1 1:2 2:3", [0, 0, 0]),
    ("①②①北", "[UNK] 北", "0:3 3:4", [0, 1]),
    ("ﬁn", "[UNK]", "0:2", [0]),
    ("a" * 101, "[UNK]", "0:101", [0]),
    # special tokens are no text
    ("[UNK]", "[ unk ]", "0:1 1:4 4:5", [0, 1, 2]),
]


@pytest.mark.parametrize(("text", "tokens", "offsets", "words"), GOLDEN)
def test_by_hand(text, tokens, offsets, words):
    encoding = PIECES.encode(text)
    assert spelled(encoding) == " ".join(f"[CLS] {tokens} [SEP]".split())
    assert places(encoding) == offsets
    assert encoding.words.tolist() == [-1, *words, -1]
    for edge in (0, -1):
        assert encoding.offsets[edge].tolist() == [-1, -1]
        assert encoding.texts[edge] == -1
    if "[UNK]" not in tokens:
        same = SPLIT.encode(text)
        np.testing.assert_array_equal(same.ids, encoding.ids)
        np.testing.assert_array_equal(same.offsets, encoding.offsets)


@pytest.mark.parametrize(
    ("text", "tokens", "offsets"),
    [
        ("①②①北", "① [UNK] ##① 北", "0:1 1:2 2:3 3:4"),
        ("ab②eing", "a ##b [UNK] ##e ##ing", "0:1 1:2 2:3 3:4 4:7"),
        ("ﬁn", "[UNK] ##n", "0:1 1:2"),
        ("①\u200b②", "① [UNK]", "0:1 2:3"),
        ("👍\u200d👩", "👍 [UNK]", "0:1 2:3"),
        ("e\u0301②", "e [UNK]", "0:1 2:3"),
        ("②", "[UNK]", "0:1"),
        ("a" * 101, "a" + " ##a" * 100, " ".join(f"{i}:{i + 1}" for i in range(101))),
    ],
)
def test_unknown_words_split(text, tokens, offsets):
    encoding = SPLIT.encode(text)
    assert spelled(encoding) == f"[CLS] {tokens} [SEP]"
    assert places(encoding) == offsets
    np.testing.assert_array_equal(
        np.unique(encoding.words), np.unique(PIECES.encode(text).words)
    )


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("北 京", "北 [UNK] 京", [0, 1, 2]),
        ("Cafe\u0301", "c ##a [UNK] ##e [UNK]", [0, 0, 0, 0, 0]),
        ("cing", "c [UNK] ##n [UNK]", [0, 0, 0, 0]),
        ("İe1", "i ##e ##1", [0, 0, 0]),
        ("a\x00b", "a [UNK] ##b", [0, 0, 0]),
        ("\u0301a", "[UNK] a", [0, 1]),
        ("北\u0301a", "北 [UNK] a", [0, 1, 2]),
        ("a\r\nb", "a [UNK] [UNK] b", [0, 1, 2, 3]),
        ("a\ud83db", "a [UNK] ##b", [0, 0, 0]),
        ("①②①", "① [UNK] ##①", [0, 0, 0]),
        ("1-1", "1 - 1", [0, 1, 2]),
    ],
)
def test_characters_by_hand(text, tokens, words):
    encoding = CHARACTERS.encode(text)
    assert spelled(encoding) == f"[CLS] {tokens} [SEP]"
    assert places(encoding) == " ".join(f"{i}:{i + 1}" for i in range(len(text)))
    assert encoding.words[1:-1].tolist() == words


def test_cased():
    tokens = (*SPECIAL, "A", "é", "e", "a")
    assert spelled(Tokenizer(tokens, lowercase=False).encode("A é"), tokens) == (
        "[CLS] A é [SEP]"
    )
    kept = Tokenizer(tokens, strip_accents=False)
    assert spelled(kept.encode("A É"), tokens) == "[CLS] a é [SEP]"
    stripped = Tokenizer(tokens, lowercase=False, strip_accents=True)
    assert spelled(stripped.encode("A é"), tokens) == "[CLS] A e [SEP]"
    joined = Tokenizer((*SPECIAL, "北", "京", "##京"), isolate_chinese=False)
    assert joined.encode("北京").ids.tolist() == [2, 5, 7, 3]


def reference(tokens, **options):
    """The library's own BERT, which takes no special token of a text for one."""
    ids = {token: number for number, token in enumerate(tokens)}
    bert = tokenizers.BertWordPieceTokenizer(vocab=ids, **options)
    bert._tokenizer.encode_special_tokens = True
    return bert


REFERENCE = reference(TOKENS)
# Only characters: what WordPiece then gives is what the other level must.
SHORT = tuple(token for token in TOKENS if len(token.removeprefix("##")) == 1)
REFERENCE_SHORT = reference((*SPECIAL, *SHORT))
SHORT_CHARACTERS = Tokenizer((*SPECIAL, *SHORT), level="character")


def check(encoding: Encoding) -> None:
    size = len(encoding)
    for array, shape in (
        (encoding.ids, (size,)),
        (encoding.token_types, (size,)),
        (encoding.offsets, (size, 2)),
        (encoding.texts, (size,)),
        (encoding.words, (size,)),
    ):
        assert array.shape == shape
        assert array.dtype == np.int32
        assert array.flags.c_contiguous
    special = encoding.texts == -1
    np.testing.assert_array_equal(special, encoding.words == -1)
    np.testing.assert_array_equal(special, (encoding.offsets == -1).all(1))
    assert np.isin(encoding.ids[special], (2, 3)).all()
    words = encoding.words[~special]
    assert (np.diff(words, prepend=0) >= 0).all()
    assert set(words) == set(range(len(set(words))))
    for number, source in enumerate(encoding.sources):
        offsets = encoding.offsets[encoding.texts == number]
        starts, ends = offsets.T
        assert (starts >= 0).all()
        assert (starts < ends).all()
        assert (ends <= len(source)).all()
        assert (np.diff(starts) >= 0).all()
        assert (np.diff(ends) >= 0).all()
        # Neighbours share all of their characters or none.
        apart, same = starts[1:] >= ends[:-1], (offsets[1:] == offsets[:-1]).all(1)
        assert (apart | same).all()


@given(ANY, st.none() | ANY)
@example("[MASK][SEP]##a", "\ufffd[UNK]")
def test_is_the_bert_of_the_library(text, pair):
    encoding, expected = PIECES.encode(text, pair), REFERENCE.encode(text, pair)
    check(encoding)
    assert encoding.ids.tolist() == expected.ids
    assert encoding.token_types.tolist() == expected.type_ids
    mine = encoding.texts >= 0
    np.testing.assert_array_equal(mine, np.array(expected.special_tokens_mask) == 0)
    np.testing.assert_array_equal(
        encoding.offsets[mine], np.reshape(expected.offsets, (-1, 2))[mine]
    )
    assert encoding.cut == (0,) * (1 if pair is None else 2)


@given(ANY)
def test_unknown_words_only_are_split(text):
    encoding, expected = SPLIT.encode(text), PIECES.encode(text)
    check(encoding)
    for word in range(expected.words.max() + 1):
        mine, theirs = encoding.words == word, expected.words == word
        if (expected.ids[theirs] != SPLIT.unknown_id).all():
            np.testing.assert_array_equal(encoding.ids[mine], expected.ids[theirs])
            np.testing.assert_array_equal(
                encoding.offsets[mine], expected.offsets[theirs]
            )
    unknown = encoding.ids == SPLIT.unknown_id
    lengths = encoding.offsets[unknown, 1] - encoding.offsets[unknown, 0]
    assert (lengths == 1).all()


@given(ANY)
def test_every_span_of_characters_is_found(text):
    encoding = CHARACTERS.encode(text)
    check(encoding)
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            span = encoding.token_span(start, end)
            assert span is not None
            assert encoding.text(*span) == text[start:end]
            assert encoding.covering(start, end) == span


@given(ANY)
def test_characters_are_word_pieces_of_a_vocabulary_of_characters(text):
    encoding, expected = SHORT_CHARACTERS.encode(text), REFERENCE_SHORT.encode(text)
    ids = dict(zip(map(tuple, encoding.offsets), encoding.ids, strict=True))
    for number, offset in zip(expected.ids, expected.offsets, strict=True):
        if number > 4:  # a word with unknown characters is one [UNK] there
            mine = (encoding.offsets == offset).all(1)
            assert number in encoding.ids[mine]
    assert ids or not text


@given(ANY)
def test_spans_that_are_found_are_exact(text):
    encoding = PIECES.encode(text)
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            span, around = (
                encoding.token_span(start, end),
                encoding.covering(start, end),
            )
            if span is not None:
                assert encoding.text(*span) == text[start:end]
                assert around == span
            if around is not None:
                first, last = around
                assert encoding.offsets[first, 0] < end
                assert encoding.offsets[last, 1] > start


def test_spans_by_hand():
    encoding = PIECES.encode("한 cing北", "北2019")
    # [CLS] ᄒ ##ᅡ ##ᆫ c ##ing 北 [SEP] 北 2019 [SEP]
    assert encoding.token_span(0, 1) == (1, 3)  # the first and the last of three
    assert encoding.token_span(0, 3) == (1, 4)
    assert encoding.token_span(0, 2) is None  # ends with white space
    assert encoding.token_span(2, 5) is None  # ends inside "##ing"
    assert encoding.covering(2, 5) == (4, 5)
    assert encoding.covering(1, 2) is None
    assert encoding.token_span(0, 1, text=1) == (8, 8)
    assert encoding.token_span(0, 5, text=1) == (8, 9)
    assert encoding.text(4, 6) == "cing北"
    assert encoding.text(8, 9) == "北2019"


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.token_span(0, 0),
        lambda e: e.token_span(-1, 1),
        lambda e: e.covering(0, 3),
        lambda e: e.covering(2, 1),
        lambda e: e.token_span(0, 1, text=1),
        lambda e: e.text(0, 1),
        lambda e: e.text(1, 3),
    ],
)
def test_spans_that_are_none(call):
    with pytest.raises(ValueError, match="must"):
        call(PIECES.encode("北京"))


@given(ANY, st.none() | ANY, st.integers(3, 20))
def test_what_is_cut(text, pair, length):
    whole = PIECES.encode(text, pair)
    encoding = PIECES.encode(text, pair, max_length=length)
    check(encoding)
    assert len(encoding) == min(length, len(whole))
    sizes = [int((whole.texts == number).sum()) for number in range(len(whole.cut))]
    # One token after the other from the end of the longer text.
    left = list(sizes)
    while sum(left) > length - len(left) - 1:
        left[-1 if left[-1] >= left[0] else 0] -= 1
    assert encoding.cut == tuple(np.subtract(sizes, left).tolist())
    for number, size in enumerate(left):
        mine, all_of_it = encoding.texts == number, whole.texts == number
        for name in ("ids", "offsets", "token_types"):
            np.testing.assert_array_equal(
                getattr(encoding, name)[mine], getattr(whole, name)[all_of_it][:size]
            )


def test_spans_that_were_cut_are_not_found():
    encoding = PIECES.encode("北京 北京", max_length=4)
    assert encoding.cut == (2,)
    assert encoding.token_span(0, 2) == encoding.covering(0, 2) == (1, 2)
    assert encoding.token_span(0, 4) is encoding.covering(1, 4) is None
    assert PIECES.encode("北", "京", max_length=3).cut == (1, 1)
    assert PIECES.encode("北", max_length=2).cut == (1,)


def test_no_room():
    with pytest.raises(ValueError, match="max_length must be >= 2"):
        PIECES.encode("北", max_length=1)
    with pytest.raises(ValueError, match="max_length must be >= 3"):
        PIECES.encode("北", "京", max_length=2)


@pytest.mark.parametrize("tokenizer", [PIECES, SPLIT, CHARACTERS])
def test_batches_are_what_one_by_one_gives(tokenizer):
    texts = [text for text, *_ in GOLDEN] * 40  # more than are encoded at once
    pairs = texts[::-1]
    for encodings, single in (
        (tokenizer.encode_batch(texts), map(tokenizer.encode, texts)),
        (tokenizer.encode_batch(texts, pairs), map(tokenizer.encode, texts, pairs)),
    ):
        for mine, expected in zip(encodings, single, strict=True):
            np.testing.assert_array_equal(mine.ids, expected.ids)
            np.testing.assert_array_equal(mine.offsets, expected.offsets)
            assert mine.sources == expected.sources
    assert tokenizer.encode_batch([]) == []
    with pytest.raises(ValueError, match="got 1 pairs and 2 texts"):
        tokenizer.encode_batch(["a", "b"], ["a"])
    with pytest.raises(TypeError, match="got one text"):
        tokenizer.encode_batch("ab")


def test_another_process_gets_the_same():
    PIECES.encode("北")
    copy = pickle.loads(pickle.dumps(PIECES))
    assert copy == PIECES
    assert len(pickle.dumps(PIECES)) < 2000  # the vocabulary, and no table made of it
    assert spelled(copy.encode("北京")) == "[CLS] 北 京 [SEP]"
    marks = (copy.pad_id, copy.unknown_id, copy.cls_id, copy.sep_id, copy.mask_id)
    assert marks == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("text", "segments", "words"),
    [
        ("北京的2019年", ["北京", "的", "2019年"], [0, 0, 1, 2, 2]),
        (" 北 京的", ["北京", "的"], [0, 0, 1]),
        ("北 京 的", ["北 京", " ", "的", ""], [0, 0, 1]),
        ("cing北", ["c", "ing", "北"], [0, 1, 2]),
        ("cing北", ["cin", "g北"], [0, 0, 0]),  # "##ing" joins both
        ("is，", ["i", "s", "，"], [0, 1]),
        ("한北", ["한", "北"], [0, 0, 0, 1]),
        ("", [], []),
        (" ", [], []),
    ],
)
def test_words_of_a_segmentation(text, segments, words):
    encoding = PIECES.encode(text)
    found = words_of_segmentation(encoding, segments)
    assert found.dtype == np.int32
    assert found.tolist() == [-1, *words, -1]


def test_words_of_a_segmented_pair():
    encoding = PIECES.encode("北京", "2019 cing")
    assert words_of_segmentation(encoding, ["北京"]).tolist() == (
        [-1, 0, 0, -1, 1, 2, 2, -1]
    )
    both = words_of_segmentation(encoding, ["北", "京"], ["2019 cing"])
    assert both.tolist() == [-1, 0, 1, -1, 2, 2, 2, -1]
    cut = PIECES.encode("北京的", max_length=4)
    assert words_of_segmentation(cut, ["北京的"]).tolist() == [-1, 0, 0, -1]
    spaced = CHARACTERS.encode("北京  的 年")
    found = words_of_segmentation(spaced, ["北京", "的 年"])
    assert found.tolist() == [-1, 0, 0, 1, 1, 2, 2, 2, -1]


@given(ANY, st.data())
def test_any_segmentation(text, data):
    pieces = "".join(text.split())
    edges = data.draw(st.sets(st.integers(0, len(pieces)), max_size=6))
    stops = sorted({0, *edges, len(pieces)})
    segments = [pieces[a:b] for a, b in itertools.pairwise(stops)]
    for tokenizer in (PIECES, CHARACTERS):
        encoding = tokenizer.encode(text)
        words = words_of_segmentation(encoding, segments)
        inside = words[encoding.texts == 0]
        np.testing.assert_array_equal(words == -1, encoding.texts == -1)
        assert (np.diff(inside, prepend=0) >= 0).all()
        assert set(inside) == set(range(len(set(inside))))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (["北", "的"], r"from character 2 on the text has .* the segments '\\u7684'"),
        (["北"], r"from character 2 on .* the segments ''"),
        (["北京", "京"], r"from character 3 on the text has ''"),
    ],
)
def test_segments_of_another_text(segments, message):
    with pytest.raises(ValueError, match=message):
        words_of_segmentation(PIECES.encode("北 京"), segments)


def test_a_pair_of_segmentations_for_one_text():
    with pytest.raises(ValueError, match="has one text"):
        words_of_segmentation(PIECES.encode("北"), ["北"], ["京"])
