"""WordPiece vocabularies: read, written, trained and trimmed."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data.tokenizer import (
    SPECIAL,
    Tokenizer,
    read_wordpiece_vocabulary,
    train_wordpiece,
    trim_vocabulary,
    write_vocabulary,
)

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

TOKENS = (
    *SPECIAL,
    *"abceino1，北京的年①ßσか👍ａ[]-=",
    *("cafe", "is", "2019", "unk", "ᄒ"),
    *("##a", "##b", "##e", "##n", "##1", "##①", "##σ", "##ing", "##ᅡ", "##ᆫ"),
)
PIECES = Tokenizer(TOKENS)


def vocabulary_file(folder, lines, end="\n", name="vocab.txt"):
    path = folder / name
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


def test_vocabulary_files(tmp_path):
    tokens = (*SPECIAL, "\u2028", "##\u2029", "\x85", "\x0c", "\r", "\x1c", "京")
    path = vocabulary_file(tmp_path, tokens)
    assert read_wordpiece_vocabulary(path) == tokens
    assert read_wordpiece_vocabulary(tmp_path) == tokens
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert read_wordpiece_vocabulary(path) == tokens
    write_vocabulary(path, TOKENS)
    assert read_wordpiece_vocabulary(path) == TOKENS
    vocabulary_file(tmp_path, TOKENS, end="\r\n")
    assert read_wordpiece_vocabulary(path) == TOKENS
    path.write_bytes(path.read_bytes().removesuffix(b"\r\n"))
    assert read_wordpiece_vocabulary(path) == TOKENS


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*SPECIAL, "a", "", "b"], r"vocab.txt:7: is empty"),
        ([*SPECIAL, "a", ""], r"vocab.txt:7: is empty"),
        ([*SPECIAL, "a", "b", "a"], r"vocab.txt:8: has the token of line 6, 'a'"),
        (SPECIAL[:3], r"vocab.txt:3: .* without \[SEP\], \[MASK\]"),
        (["[PAD]\r", "a", *SPECIAL[1:]], r"vocab.txt:2: ends with"),
        ([], "is empty"),
    ],
)
def test_damaged_vocabulary_files(tmp_path, lines, message):
    path = vocabulary_file(tmp_path, lines)
    with pytest.raises(InputError, match=message):
        read_wordpiece_vocabulary(path)
    with pytest.raises(InputError, match=message):
        Tokenizer.load(path)
    with pytest.raises(InputError, match=message):
        Tokenizer.load(tmp_path)


def test_vocabulary_files_that_are_none(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join([*SPECIAL, "京"]).encode("gb18030"))
    with pytest.raises(InputError, match=r"vocab.txt:6: byte 0x.* is not UTF-8"):
        read_wordpiece_vocabulary(path)
    with pytest.raises(InputError, match="no such file"):
        Tokenizer.load(tmp_path / "other.txt")
    path.unlink()
    with pytest.raises(InputError, match=r"holds neither vocab.txt nor tokenizer.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "tokens",
    [
        SPECIAL[1:],
        (*SPECIAL, ""),
        (*SPECIAL, "a", "a"),
        (*SPECIAL, "a\nb"),
        (*SPECIAL, "a\r"),
        (*SPECIAL, "\ud83d"),
        ("\ufeff", *SPECIAL),
    ],
)
def test_tokens_that_cannot_be_written(tmp_path, tokens):
    with pytest.raises(ValueError, match=r"remove|add them|put another"):
        write_vocabulary(tmp_path / "vocab.txt", tokens)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, (True, None, True)),
        ({}, (True, None, True)),
        ({"do_lower_case": False}, (False, None, True)),
        ({"do_lower_case": True, "strip_accents": False}, (True, False, True)),
        ({"tokenize_chinese_chars": False, "x": 1}, (True, None, False)),
    ],
)
def test_settings_of_a_folder(tmp_path, settings, expected):
    vocabulary_file(tmp_path, TOKENS)
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = Tokenizer.load(tmp_path)
    assert (found.lowercase, found.strip_accents, found.isolate_chinese) == expected
    assert Tokenizer.load(tmp_path, lowercase=False).lowercase is False
    assert Tokenizer.load(tmp_path, lowercase=True).lowercase is True


@pytest.mark.parametrize(
    "tokenizer",
    [
        PIECES,
        Tokenizer(TOKENS, split_unknown=True),
        Tokenizer(TOKENS, level="character", isolate_chinese=False),
        Tokenizer(TOKENS, lowercase=False, strip_accents=True),
    ],
)
def test_saved_and_loaded(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "new" / "folder")
    assert Tokenizer.load(tmp_path / "new" / "folder") == tokenizer
    tokenizer.save(tmp_path / "new" / "folder")
    (tmp_path / "new" / "folder" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="remove it, or save to another folder"):
        tokenizer.save(tmp_path / "new" / "folder")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"do_lower_case": 1}', '"do_lower_case" must be true, false or null, got 1'),
        ('{"zlpr_jax": 1}', '"zlpr_jax" must be an object'),
        ('{"zlpr_jax": {"level": "word"}}', "level must be one of"),
        ('{"zlpr_jax": {"split_unknown": 1}}', "split_unknown must be one of"),
    ],
)
def test_damaged_settings(tmp_path, content, message):
    vocabulary_file(tmp_path, TOKENS)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Tokenizer.load(tmp_path)


def fast_file(folder, change=lambda content: None, **options):
    ids = {token: number for number, token in enumerate(TOKENS)}
    bert = tokenizers.BertWordPieceTokenizer(vocab=ids, **options)
    bert.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def test_tokenizer_json(tmp_path):
    fast_file(tmp_path, lowercase=False, strip_accents=True)
    found = Tokenizer.load(tmp_path)
    assert found == Tokenizer(TOKENS, lowercase=False, strip_accents=True)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert Tokenizer.load(tmp_path).lowercase
    vocabulary_file(tmp_path, SPECIAL)
    assert Tokenizer.load(tmp_path).tokens == SPECIAL


def test_tokenizer_json_of_transformers_has_empty_tokens(tmp_path):
    """It strips U+2028, a token of bert-base-chinese, when it reads a vocab.txt."""

    def change(content):
        vocabulary = content["model"]["vocab"]
        vocabulary[""] = vocabulary.pop("京")
        del vocabulary["北"]

    fast_file(tmp_path, change)
    found = Tokenizer.load(tmp_path)
    ids = {token: number for number, token in enumerate(TOKENS)}
    for token in "北京":
        assert found.tokens[ids[token]] == f"[hole{ids[token]}]"
    text = f"的[hole{ids['京']}]cafe"
    expected = Tokenizer(TOKENS).encode(text).ids
    np.testing.assert_array_equal(found.encode(text).ids, expected)
    found.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved") == found


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model.type", "BPE", r"model.type must be 'WordPiece', got 'BPE'"),
        ("model", None, r"model.type must be"),
        ("model.unk_token", "<unk>", r"model.unk_token must be"),
        ("model.continuing_subword_prefix", "@@", "prefix must be"),
        ("model.vocab", ["a"], r"model.vocab must give an id"),
        ("model.vocab", {"a": "0"}, r"model.vocab must give an id"),
        ("model.vocab", {"a": 0, "b": 0}, r"'a' and 'b' both have the id 0"),
        ("model.vocab", {"a": 10**9}, r"the ids of model.vocab must be 0 to 0"),
        ("model.vocab", {"a": -1}, r"the ids of model.vocab must be"),
        ("model.vocab", {"[PAD]": 0}, r"special tokens \[UNK\]"),
        ("normalizer", None, r"normalizer.type must be"),
        ("normalizer.lowercase", "yes", '"lowercase" must be true, false or null'),
        ("pre_tokenizer.type", "Whitespace", r"pre_tokenizer.type must be"),
        ("added_tokens", [{"id": 99, "content": "<x>"}], "'<x>' is not in model.vocab"),
    ],
)
def test_damaged_tokenizer_json(tmp_path, place, value, message):
    def change(content):
        if not place.startswith("added"):
            content["added_tokens"] = []
        *above, last = place.split(".")
        for name in above:
            content = content[name]
        content[last] = value

    fast_file(tmp_path, change)
    with pytest.raises(InputError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("lowercase", [True, False])
def test_transformers_reads_what_was_saved(tmp_path, lowercase):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed"
    )
    mine = Tokenizer(TOKENS, lowercase=lowercase)
    mine.save(tmp_path)
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    for text in ("北京 Cafe\u0301", "İs，cing", "a\x00b\u2028ß", "①②", "한 👍Ａ1"):
        assert theirs(text)["input_ids"] == mine.encode(text).ids.tolist()
    theirs.save_pretrained(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again") == mine


# Vocabularies


def test_trimmed():
    texts = ["北京的", "北京 cafe", "cing"]
    counts = PIECES.count(iter(texts))
    assert counts.dtype == np.int64
    found = {TOKENS[i]: int(counts[i]) for i in np.flatnonzero(counts)}
    assert found == {"北": 2, "京": 2, "的": 1, "cafe": 1, "c": 1, "##ing": 1}
    tokens, ids = trim_vocabulary(TOKENS, counts > 0)
    assert tokens == (*SPECIAL, "c", "北", "京", "的", "cafe", "##ing")
    assert ids.dtype == np.int32
    assert tuple(np.array(TOKENS)[ids]) == tokens
    for text in texts:
        small, large = Tokenizer(tokens).encode(text), PIECES.encode(text)
        np.testing.assert_array_equal(ids[small.ids], large.ids)
        np.testing.assert_array_equal(small.offsets, large.offsets)
    kept, ids = trim_vocabulary(TOKENS, [False] * len(TOKENS))
    assert kept == SPECIAL
    assert PIECES.count([]).sum() == 0


def test_no_mask_to_trim_by():
    with pytest.raises(ValueError, match="keep must be one bool for each of the"):
        trim_vocabulary(TOKENS, [True])


PROSE = [
    "the lower the slower, the newest and the widest",
    "新的北京 2019年 2018年 2020年",
    "Wider, WIDER and widest; lowest of the low",
    "İstanbul cafe\u0301 café a\u2028b",
] * 3


def digest(tokens) -> str:
    return hashlib.md5("\n".join(tokens).encode()).hexdigest()


def test_training_is_the_same_in_any_order_and_process():
    tokens = train_wordpiece(PROSE, 80)
    assert train_wordpiece(reversed(PROSE), 80) == tokens
    code = (
        "import hashlib\n"
        "from zlpr_jax.data.tokenizer import train_wordpiece\n"
        f"tokens = train_wordpiece({PROSE!a}, 80)\n"
        "print(hashlib.md5('\\n'.join(tokens).encode()).hexdigest())"
    )
    for _ in range(2):  # each with hash seeds of its own
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == digest(tokens)


def test_trained_vocabulary():
    tokens = train_wordpiece(PROSE, 80)
    assert len(tokens) == len(set(tokens)) == 80
    assert tokens[:5] == SPECIAL
    tokenizer = Tokenizer(tokens)
    assert tokenizer.count(PROSE)[tokenizer.unknown_id] == 0
    assert tokens[tokenizer.encode("the newest 北京").ids[1]] == "the"
    for token in tokens[5:]:  # every character begins a word too
        assert set(token.removeprefix("##")) <= set(tokens)
    cased = train_wordpiece(PROSE, 200, lowercase=False, least=1)
    assert "é" in cased
    assert "W" in cased
    assert "Wider" in cased
    assert len(train_wordpiece(PROSE, 10_000)) < 200
    assert train_wordpiece(["ab ab c c"], 9) == (*SPECIAL, "a", "b", "c", "##b")
    assert train_wordpiece(["ab ab c"], 10)[5:] == ("a", "b", "c", "##b", "ab")
    assert train_wordpiece(["aab b"], 7) == (*SPECIAL, "a", "##a")


@pytest.mark.parametrize(
    ("texts", "size", "least", "message"),
    [
        (["a"], 5, 2, "size must be more than the 5 special tokens, got 5"),
        (["a"], 9, 0, "least must be >= 1, got 0"),
        ([], 9, 2, "there is no word"),
        ([" \x00"], 9, 2, "there is no word"),
    ],
)
def test_nothing_to_train(texts, size, least, message):
    with pytest.raises(ValueError, match=message):
        train_wordpiece(texts, size, least=least)
