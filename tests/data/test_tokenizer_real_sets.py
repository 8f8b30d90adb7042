"""WordPiece on CLUENER and DuIE: all spans are found again."""

import json
import re
from pathlib import Path

import pytest

from zlpr_jax.data.tokenizer import (
    Tokenizer,
    read_wordpiece_vocabulary,
    write_vocabulary,
)

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real sets are not at {SHARED}"
)


def cluener():
    """Text and spans of each record."""
    for name in ("train", "dev"):
        content = (SHARED / "ie_cluener" / f"{name}.json").read_text("utf-8")
        for line in filter(None, content.split("\n")):
            record = json.loads(line)
            spans = [
                (start, end + 1)
                for names in record["label"].values()
                for places in names.values()
                for start, end in places
            ]
            yield record["text"], spans


def duie():
    """Text and all the places of its subjects and objects."""
    path = SHARED / "ie_duie" / "train_data_5000.json"
    for line in filter(None, path.read_text("utf-8").split("\n")):
        record = json.loads(line)
        text, names = record["text"], set()
        for relation in record["spo_list"]:
            names |= {relation["subject"], *relation["object"].values()}
        spans = [
            (match.start(), match.start() + len(name))
            for name in sorted(names)
            for match in re.finditer(f"(?={re.escape(name)})", text, re.IGNORECASE)
        ]
        assert len({text[a:b].lower() for a, b in spans}) == len(
            {name.lower() for name in names}
        )
        yield text, spans


@pytest.mark.parametrize(
    ("read", "level", "texts", "spans", "recovered"),
    [
        (cluener, "character", 12091, 27043, 27043),
        (cluener, "piece", 12091, 27043, 27028),
        (duie, "character", 5000, 15439, 15439),
        (duie, "piece", 5000, 15439, 15434),
    ],
)
def test_gold_spans_are_recovered(read, level, texts, spans, recovered):
    """All by characters; pieces miss ends inside "##2011" or after white space."""
    tokenizer = Tokenizer.load(SHARED / "vocab_bert_chinese", level=level)
    records = list(read())
    found = 0
    encodings = tokenizer.encode_batch([text for text, _ in records])
    for (text, gold), encoding in zip(records, encodings, strict=True):
        for start, end in gold:
            span = encoding.token_span(start, end)
            if span is None:
                around = encoding.covering(start, end)
                assert around is not None
                assert text[start:end].strip() in encoding.text(*around)
            else:
                assert encoding.text(*span) == text[start:end]
                found += 1
    assert len(records) == texts
    assert sum(len(gold) for _, gold in records) == spans
    assert found == recovered


def test_the_vocabulary_of_bert_base_chinese(tmp_path):
    path = SHARED / "vocab_bert_chinese" / "vocab.txt"
    tokens = read_wordpiece_vocabulary(path)
    assert len(tokens) == 21128
    assert tokens[343] == "\u2028"
    write_vocabulary(tmp_path / "vocab.txt", tokens)
    assert (tmp_path / "vocab.txt").read_bytes() == path.read_bytes()
    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode("Café 2019年iPhone4 ①②").ids
    assert ids.tolist() == [101, 8377, 9160, 2399, 8210, 8159, 405, 13557, 102]


def test_real_texts_are_cut_as_the_library_does():
    path = SHARED / "vocab_bert_chinese" / "vocab.txt"
    tokenizer = Tokenizer.load(path)
    texts = [text for text, _ in duie()]
    ids = {token: number for number, token in enumerate(tokenizer.tokens)}
    reference = tokenizers.BertWordPieceTokenizer(vocab=ids)
    expected = reference.encode_batch(texts)
    for mine, theirs in zip(tokenizer.encode_batch(texts), expected, strict=True):
        assert mine.ids.tolist() == theirs.ids
