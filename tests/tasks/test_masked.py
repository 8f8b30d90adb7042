"""Masked words: what is chosen and hidden; loss by hand; and some real lines."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.chatterbot import read_chatterbot_texts
from zlpr_jax.data.tokenizer import (
    SPECIAL,
    Tokenizer,
    train_wordpiece,
    words_of_segmentation,
)
from zlpr_jax.data.word_rows import NO_WORD, pack_words, stack_word_rows
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import masked
from zlpr_jax.tasks.masking import mask_words, most_chosen, words_to_choose
from zlpr_jax.tasks.token_scores import RowScore
from zlpr_jax.training import FitConfig, evaluate, fit, predict

CHINESE = Path(__file__).parents[3] / "shared/data"
IDS = {"cls_id": 2, "sep_id": 3, "pad_id": 0}
MASK_ID, VOCABULARY, LENGTH = 4, 60, 16
SPECIAL_IDS = (0, 1, 2, 3, 4)
CONFIG = BertConfig(
    vocabulary=VOCABULARY,
    width=16,
    layers=1,
    heads=2,
    hidden=32,
    max_length=LENGTH,
    dropout=0.0,
    attention_dropout=0.0,
    pooler=False,
    masked_head=True,
)
KEY = jax.random.key(0)
MASK = jax.jit(
    mask_words, static_argnames=("places", "vocabulary", "mask_id", "special")
)


def words_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)


@pytest.fixture(scope="module")
def rows():
    """Documents of words of 1 to 4 tokens, in rows of which some are padded."""
    rng = np.random.default_rng(0)
    documents = []
    for count in (30, 3, 1, 12, 9):
        words = words_of(rng.integers(1, 5, count))
        tokens = rng.integers(5, VOCABULARY, len(words)).astype(np.int32)
        documents.append((tokens, words))
    return pack_words(documents, LENGTH, **IDS)


@pytest.fixture(scope="module")
def task(rows):
    places = most_chosen(rows, 0.3)
    return masked.make(
        CONFIG, places=places, mask_id=MASK_ID, special=SPECIAL_IDS, share=0.3
    )


@pytest.fixture(scope="module")
def start(task):
    params, state = jax.jit(task.init)(KEY)
    rng = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), params
    )
    return noise, state


@pytest.fixture(scope="module")
def grad(task):
    """Jitted once: `(loss, (state, metrics)), gradient`."""
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))


def hide(rows, seed, share=0.15, vocabulary=VOCABULARY):
    """Masks of rows; the tokens chosen, `[N, L]`, from their places."""
    found = MASK(
        *(rows.tokens, rows.words, words_to_choose(rows, share)),
        jax.random.split(jax.random.key(seed), len(rows)),
        places=most_chosen(rows, share),
        vocabulary=vocabulary,
        mask_id=MASK_ID,
        special=SPECIAL_IDS,
    )
    chosen = np.zeros(rows.tokens.shape, bool)
    row, place = np.nonzero(np.asarray(found.where))
    chosen[row, np.asarray(found.places)[row, place]] = True
    assert chosen.sum() == found.where.sum(), "every place is another token"
    return np.asarray(found.tokens), chosen


# -- Rows


def test_pack_words():
    documents = [(np.arange(5, 12), words_of([1, 2, 3, 1])), (np.int32([20]),) * 2]
    packed = pack_words(documents, 6, **IDS)
    assert packed.tokens.tolist() == [
        [2, 5, 6, 7, 3, 0],
        [2, 8, 9, 10, 11, 3],
        [2, 20, 3, 0, 0, 0],
    ]
    assert packed.words.tolist() == [
        [-1, 0, 1, 1, -1, -1],
        [-1, 0, 0, 0, 1, -1],
        [-1, 0, -1, -1, -1, -1],
    ]
    assert packed.lengths.tolist() == [5, 6, 3]
    # a longer row holds both, with [SEP] between
    (row,) = pack_words(documents, 12, **IDS)
    assert row.tokens.tolist() == [2, *range(5, 12), 3, 20, 3, 0]
    assert row.words.tolist() == [-1, 0, 1, 1, 2, 2, 2, 3, -1, 4, -1, -1]


def test_every_token_is_in_one_row_and_words_are_whole():
    rng = np.random.default_rng(1)
    for length in (3, 5, 9, 16, 40):
        documents = []
        for count in rng.integers(1, 40, 20):
            words = words_of(rng.integers(1, 12, count))
            unknown = rng.random(len(words)) < 0.1
            tokens = rng.integers(5, 1000, len(words)).astype(np.int32)
            documents.append((tokens, np.where(unknown, NO_WORD, words)))
        packed = pack_words(documents, length, **IDS)
        inner = [row.tokens[1 : row.length - 1] for row in packed]
        together = np.concatenate(inner)
        known = np.concatenate([row.words[1 : row.length - 1] for row in packed]) >= 0
        given = [np.concatenate(part) for part in zip(*documents, strict=True)]
        np.testing.assert_array_equal(together[known], given[0][given[1] >= 0])
        for row in packed:
            assert row.tokens[0] == 2
            assert row.tokens[row.length - 1] == 3
            assert (row.tokens[row.length :] == 0).all()
            assert (row.words[row.length :] == NO_WORD).all()
            found = row.words[row.words >= 0]
            assert found[0] == 0
            assert set(np.diff(found)) <= {0, 1}
        # a row ends where the next word would not have fitted: none is half empty
        assert np.median(packed.lengths) > length / 2
        assert packed.take([2, 0]).numbers.tolist() == [2, 0]
        assert stack_word_rows([packed[2], packed[0]]).numbers.tolist() == [2, 0]


def test_bad_documents():
    with pytest.raises(ValueError, match="length must be >= 3, got 2"):
        pack_words([], 2, **IDS)
    with pytest.raises(ValueError, match=r"got \[2\] tokens and \[1\] words"):
        pack_words([(np.int32([5, 6]), np.int32([0]))], 8, **IDS)
    assert len(pack_words([], 8, **IDS)) == 0
    assert len(pack_words([(np.int32([1]), np.int32([-1]))], 8, **IDS)) == 0


# -- Masks


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_words_are_chosen_whole_and_so_many(rows, share):
    for seed in range(5):
        tokens, chosen = hide(rows, seed, share)
        assert not chosen[rows.words == NO_WORD].any(), "no special token, no padding"
        np.testing.assert_array_equal(tokens[~chosen], rows.tokens[~chosen])
        for row, words in enumerate(rows.words):
            picked = set(words[chosen[row]])
            assert chosen[row].tolist() == [word in picked for word in words]
            count = words.max() + 1
            assert len(picked) == max(1, math.floor(share * count + 0.5))


def test_the_same_chance_for_each_word_and_what_becomes_of_it():
    """Counts of many draws are within 4.5 standard deviations of a binomial one."""
    copies, share = 3000, 0.2
    sizes = [1, 3, 1, 2, 4, 1, 1, 2, 1, 4]
    text = np.arange(5, 5 + sum(sizes)), words_of(sizes)
    packed = pack_words([text], 22, **IDS).take([0] * copies)
    tokens, chosen = hide(packed, 0, share)

    def within(hits, draws, chance):
        error = math.sqrt(draws * chance * (1 - chance))
        assert abs(hits - draws * chance) < 4.5 * error

    first = np.unique(packed.words[0], return_index=True)[1][1:]
    assert chosen[:, first].sum() == 2 * copies, "two of ten words in each row"
    for word in first:
        within(chosen[:, word].sum(), copies, share)
    # words of one token, which are hidden, random or kept; all of its tokens alike
    draws, read = chosen[:, first], tokens[:, first]
    hidden, kept = read == MASK_ID, read == packed.tokens[:, first]
    total = draws.sum()
    random_kept = 0.1 / (VOCABULARY - 5)
    within((hidden & draws).sum(), total, 0.8)
    within((kept & draws).sum(), total, 0.1 + random_kept)
    for word in np.unique(packed.words[0])[1:]:
        mine = packed.words[0] == word
        alike = (tokens == MASK_ID)[:, mine]
        assert (alike.all(1) | ~alike.any(1)).all()
    # random tokens are no special ones, and all others
    random = tokens[chosen & (tokens != MASK_ID) & (tokens != packed.tokens)]
    assert not set(random.tolist()) & set(SPECIAL_IDS)
    assert set(random.tolist()) == set(range(5, VOCABULARY))


def test_random_tokens_with_special_ids_anywhere():
    """As in bert-base-chinese, where they are 0 and 100 to 103."""
    packed = pack_words(
        [(np.full(12, 3), np.arange(12))], 14, cls_id=5, sep_id=6, pad_id=0
    )
    packed = packed.take([0] * 400)
    found = MASK(
        *(packed.tokens, packed.words, words_to_choose(packed, 1.0)),
        jax.random.split(KEY, 400),
        places=12,
        vocabulary=9,
        mask_id=7,
        special=(5, 0, 4, 6, 7),
    )
    counts = np.bincount(np.asarray(found.tokens)[:, 1:-1].ravel(), minlength=9)
    total = 400 * 12
    np.testing.assert_allclose(counts[7] / total, 0.8, atol=0.03)
    assert (counts[[0, 4, 5, 6]] == 0).all()
    np.testing.assert_allclose(counts[[1, 2, 8]] / total, 0.1 / 4, atol=0.01)
    np.testing.assert_allclose(counts[3] / total, 0.1 + 0.1 / 4, atol=0.02)


def test_masks_come_from_the_key(rows):
    first, again, other = (hide(rows, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_most_chosen_is_the_largest_sum(rows):
    for share in (0.15, 0.5, 1.0):
        sums = []
        for words, count in zip(rows.words, words_to_choose(rows, share), strict=True):
            sizes = np.bincount(words[words >= 0])
            sums.append(np.sort(sizes)[-count:].sum())
        assert most_chosen(rows, share) == max(sums)


def test_segmentation_of_chinese():
    """Words of several characters are chosen whole."""
    text, segments = "我爱北京天安门", ["我", "爱", "北京", "天安门"]
    tokenizer = Tokenizer((*SPECIAL, *dict.fromkeys(text)))
    encoding = tokenizer.encode(text)
    for words, count in (
        (encoding.words, 7),
        (words_of_segmentation(encoding, segments), 4),
    ):
        document = encoding.ids[1:-1], words[1:-1]
        packed = pack_words([document], 9, **IDS).take([0] * 50)
        assert packed.word_counts()[0] == count
        _, chosen = hide(packed, 0, 0.25, vocabulary=len(tokenizer))
        assert chosen.any(0)[1:-1].all()
        together = chosen[:, 5] == chosen[:, 7]  # 天 and 门
        assert together.all() == (count == 4)


# -- The task


@jax.jit
def logits_of(params, state, tokens, real):
    """Of all tokens."""
    graph = nnx.eval_shape(lambda: Bert(CONFIG, rngs=nnx.Rngs(0)))
    hidden, _ = functionalize(graph).apply(params, state, tokens, where=real)
    head = functionalize(graph, method="masked_logits").apply
    return head(params, state, hidden)[0]


def by_hand(start, rows, task, keys):
    """(nats, tokens, hits) of every row, in float64, from the encoder's own logits."""
    batch = task.batch(rows, len(rows))
    found = MASK(
        *(batch[name] for name in ("tokens", "words", "choose")),
        keys,
        places=most_chosen(rows, 0.3),
        vocabulary=VOCABULARY,
        mask_id=MASK_ID,
        special=SPECIAL_IDS,
    )
    real = np.arange(LENGTH) < rows.lengths[:, None]
    logits = np.asarray(logits_of(*start, found.tokens, real), np.float64)
    scores = []
    for row, places in enumerate(np.asarray(found.places)):
        places = places[np.asarray(found.where)[row]]
        labels = rows.tokens[row, places]
        nats = -log_softmax(logits[row, places], axis=-1)[range(len(places)), labels]
        hits = logits[row, places].argmax(-1) == labels
        scores.append((math.fsum(nats), len(places), hits.sum()))
    return np.array(scores)


def test_loss_and_metrics_by_hand(rows, task, start, grad):
    keys = jax.random.split(jax.random.split(KEY)[0], len(rows))
    nats, tokens, hits = by_hand(start, rows, task, keys).T
    batch = task.batch(rows, len(rows))
    (value, (_, metrics)), _ = grad(*start, batch, KEY)
    np.testing.assert_allclose(value, nats.sum() / tokens.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], [nats.sum(), tokens.sum()], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], [hits.sum(), tokens.sum()])


def test_scores_by_hand_do_not_depend_on_the_batch(rows, task, start):
    keys = jnp.stack([jax.random.fold_in(jax.random.key(0), n) for n in rows.numbers])
    nats, tokens, hits = by_hand(start, rows, task, keys).T
    found = {size: evaluate(task, *start, rows, size) for size in (4, 7)}
    for scores, predictions in found.values():
        np.testing.assert_allclose([row.nats for row in predictions], nats, rtol=1e-4)
        assert [row.tokens for row in predictions] == tokens.tolist()
        assert [row.hits for row in predictions] == hits.tolist()
        expected = nats.sum() / tokens.sum()
        assert scores == {
            "loss": pytest.approx(expected, rel=1e-5),
            "perplexity": pytest.approx(math.exp(expected), rel=1e-4),
            "accuracy": hits.sum() / tokens.sum(),
        }
    # a part of the rows hides the same words as the whole
    part = predict(task, *start, rows.take([3, 1]), 4)
    np.testing.assert_allclose([row.nats for row in part], nats[[3, 1]], rtol=1e-4)


def test_is_a_task(rows, task):
    assert isinstance(task, Task)
    assert task.headline == ("loss", "min")
    batch = task.batch(rows.take([1, 0]), 3)
    again = task.batch([rows[1], rows[0]], 3)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    assert batch["where"].tolist() == [True, True, False]
    assert batch["real"].sum(1).tolist() == [*rows.lengths[[1, 0]], 0]
    assert batch["choose"][2] == 0


def test_padding_changes_nothing(rows, task, start, grad):
    whole = task.batch(rows, len(rows))
    (value, _), grads = grad(*start, whole, KEY)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    dirty = {name: array.copy() for name, array in whole.items()}
    padding = ~whole["real"]
    assert padding.any()
    dirty["tokens"][padding] = 7
    (other, _), more = grad(*start, dirty, KEY)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, more
    )
    empty = task.batch(rows.take([]), len(rows))
    (nothing, (_, metrics)), grads = grad(*start, empty, KEY)
    assert nothing == 0
    assert metrics == {"loss": (0, 0), "accuracy": (0, 0)}
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_gradients_come_from_chosen_tokens_only(rows, task, start, grad):
    batch = task.batch(rows, len(rows))
    _, grads = grad(*start, batch, KEY)
    found = MASK(
        *(batch[name] for name in ("tokens", "words", "choose")),
        jax.random.split(jax.random.split(KEY)[0], len(rows)),
        places=most_chosen(rows, 0.3),
        vocabulary=VOCABULARY,
        mask_id=MASK_ID,
        special=SPECIAL_IDS,
    )
    places, where = np.asarray(found.places), np.asarray(found.where)
    labels = np.take_along_axis(batch["tokens"], places, axis=1)[where]
    counts = np.bincount(labels, minlength=VOCABULARY)
    assert (counts == 0).any()
    # d loss / d bias is the mean of softmax - one-hot: below 0 for labels alone
    bias = np.asarray(grads["masked_head"]["bias"])
    assert (counts[bias < 0] > 0).all()
    np.testing.assert_allclose(bias.sum(), 0, atol=1e-6)
    shares = bias + counts / counts.sum()
    assert (shares > 0).all()


def test_loss_in_bfloat16_is_close_and_float32(rows, task, start, grad):
    params, state = start
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    batch = task.batch(rows, len(rows))
    (exact, _), _ = grad(params, state, batch, KEY)
    rounded, (_, metrics) = jax.jit(task.loss)(half, state, batch, KEY)
    assert {one.dtype for one in (rounded, *metrics["loss"])} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    assert rounded != exact


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ({"places": 0}, r"places must be in \[1, 16\], got 0"),
        ({"mask_id": 60}, r"special ids must be in \[0, 60\), got 60"),
        ({"mask_id": 9}, "special must hold mask_id = 9"),
        ({"headline": ("f1", "max")}, "headline must name one of loss, "),
    ],
)
def test_bad_settings(changes, message):
    settings = {"places": 4, "mask_id": 4, "special": SPECIAL_IDS, **changes}
    with pytest.raises(ValueError, match=message):
        masked.make(CONFIG, **settings)


def test_rows_that_do_not_fit(rows, task):
    with pytest.raises(ValueError, match="masked_head=True, and pooler=False"):
        masked.make(BertConfig(vocabulary=9), places=1, mask_id=4, special=(4,))
    few = masked.make(CONFIG, places=1, mask_id=4, special=SPECIAL_IDS, share=0.5)
    with pytest.raises(InputError, match="tokens can be chosen, and places is 1"):
        few.batch(rows, len(rows))
    text = np.arange(5, 35), np.arange(30)
    with pytest.raises(InputError, match="have 32 tokens and the encoder takes 16"):
        task.batch(pack_words([text], 32, **IDS), 1)
    with pytest.raises(InputError, match=r"tokens must be in \[0, 60\), got 0 to 70"):
        task.batch(pack_words([(np.int32([70]), np.int32([0]))], 16, **IDS), 1)


@pytest.mark.parametrize("nats", [math.nan, math.inf, 1e6])
def test_a_model_that_diverged(task, nats):
    with pytest.raises(InputError, match=r"not finite .* diverged: lower the learning"):
        task.score([RowScore(np.float32(nats), 10, 1)], None)


def test_nothing_to_score(task):
    with pytest.raises(InputError, match="no word to hide"):
        task.score([RowScore(0.0, 0, 0)], None)


@pytest.fixture(scope="module")
def overfits():
    """Train on a few texts, one in each row, until their hidden words are known."""
    config = dataclasses.replace(
        CONFIG, vocabulary=200, width=32, hidden=64, max_length=24
    )
    # one task, which is compiled once
    task = masked.make(config, places=12, mask_id=MASK_ID, special=SPECIAL_IDS)
    tx, settings = adaxw(0.005), FitConfig(steps=250, batch_size=8)

    def overfits(tokenizer, texts, segments=None):
        encoded = []
        for number, text in enumerate(texts):
            encoding = tokenizer.encode(text)
            words = encoding.words
            if segments is not None:
                words = words_of_segmentation(encoding, segments[number])
            (row,) = pack_words([(encoding.ids[1:-1], words[1:-1])], 24, **IDS)
            encoded.append(row._replace(number=number))
        packed = stack_word_rows(encoded)
        result = fit(task, tx, packed, settings)
        scores, _ = evaluate(task, result.params, result.state, packed, 8)
        return scores["accuracy"]

    return overfits


def test_overfits_real_lines(overfits):
    texts = read_chatterbot_texts().documents
    chosen = {text[0]: text for text in texts if 20 < len(text) < 40}
    chosen = list(chosen.values())[:8]
    tokenizer = Tokenizer(train_wordpiece(chosen, 200, least=1))
    assert overfits(tokenizer, chosen) > 0.9


def test_overfits_real_chinese(overfits):
    path = CHINESE / "dialog_lccc/cdial_toy_data.json"
    vocabulary = CHINESE / "vocab_bert_chinese/vocab.txt"
    for file in (path, vocabulary):
        if not file.exists():
            pytest.skip(f"{file.name} is not here: it is no part of the repository")
    dialogues = json.loads(path.read_text(encoding="utf-8"))["valid"]
    lines = ["".join(line.split()) for dialogue in dialogues for line in dialogue]
    chosen = [line for line in lines if 8 < len(line) < 20][:8]
    whole = Tokenizer.load(vocabulary)
    kept = {token for text in chosen for token in text}
    tokenizer = Tokenizer((*SPECIAL, *(t for t in whole.tokens if t in kept)))
    pairs = [[t[i : i + 2] for i in range(0, len(t), 2)] for t in chosen]
    assert overfits(tokenizer, chosen, pairs) > 0.9
