"""The language model's task: loss and scores by hand, packing, and some real lines."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.chatterbot import read_chatterbot_texts
from zlpr_jax.data.copying import PAD, copy_rows
from zlpr_jax.data.tokens import TokenRows, pack_documents
from zlpr_jax.data.vocabulary import END, Vocabulary
from zlpr_jax.models.decoder import Decoder, DecoderConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import language
from zlpr_jax.tasks.token_scores import RowScore
from zlpr_jax.training import FitConfig, evaluate, fit, predict

CONFIG = DecoderConfig(
    vocabulary=11, max_length=12, width=16, layers=1, heads=2, attention=("dot",)
)
SIZES = (4, 25, 2, 0, 7, 1, 11, 3)
# One task and its functions, so that each shape is compiled once.
TASK = language.make(CONFIG)
LOSS = jax.jit(TASK.loss)
GRAD = jax.jit(jax.value_and_grad(TASK.loss, has_aux=True))
KEY = jax.random.key(0)


def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 11, size).astype(np.int32) for size in SIZES]


@pytest.fixture(scope="module")
def packed():
    rows = pack_documents(documents(), 12, end=END)
    assert rows.segments.max() > 1
    return rows


@pytest.fixture(scope="module")
def start():
    params, state = jax.jit(TASK.init)(KEY)
    # So that the scores are far from those of chance, and no two are alike.
    rng = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), params
    )
    return noise, state


@jax.jit
def logits_of(params, state, tokens, positions=None, segments=None):
    graph = nnx.eval_shape(lambda: Decoder(CONFIG, rngs=nnx.Rngs(0)))
    apply = functionalize(graph).apply
    return apply(params, state, tokens, positions=positions, segments=segments)[0]


def by_hand(start, rows):
    """(nats, tokens, hits) of every row, in float64, target by target."""
    logits = logits_of(
        *start, *(rows.arrays().get(n) for n in ("tokens", "positions", "segments"))
    )
    found = []
    for row, targets in zip(
        np.asarray(logits, np.float64), rows.targets.tolist(), strict=True
    ):
        places = [place for place, target in enumerate(targets) if target >= 0]
        nats = [-log_softmax(row[place])[targets[place]] for place in places]
        hits = [row[place].argmax() == targets[place] for place in places]
        found.append((math.fsum(nats), len(places), sum(hits)))
    return np.array(found)


def test_is_a_task():
    assert isinstance(TASK, Task)
    assert TASK.headline == ("perplexity", "min")
    other = language.make(CONFIG, headline=("accuracy", "max"))
    assert other.headline == ("accuracy", "max")
    with pytest.raises(ValueError, match="headline must name one of loss, "):
        language.make(CONFIG, headline=("f1", "max"))


def test_batches_hold_the_rows(packed):
    batch = TASK.batch(packed.take([2, 0]), 3)
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
        **dict.fromkeys(packed.arrays(), (np.int32, (3, 12))),
        "where": (np.bool_, (3,)),
    }
    for name, array in packed.arrays().items():
        np.testing.assert_array_equal(batch[name][:2], array[[2, 0]])
        assert (batch[name][2] == (-1 if name == "targets" else 0)).all()
    np.testing.assert_array_equal(batch["where"], [True, True, False])
    again = TASK.batch([packed[2], packed[0]], 3)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    plain = TokenRows(tokens=packed.tokens, targets=packed.targets)
    assert TASK.batch(plain, len(plain)).keys() == {"tokens", "targets", "where"}


@pytest.mark.parametrize("whole", [False, True])
def test_loss_metrics_and_scores_by_hand(packed, start, whole):
    rows = packed
    if whole:
        rows = pack_documents([np.concatenate(documents())], 12, end=END)
        assert rows.segments is None
    nats, tokens, hits = by_hand(start, rows).T
    expected = nats.sum() / tokens.sum()
    assert tokens.sum() == (rows.targets >= 0).sum()
    assert 0 < hits.sum() < tokens.sum()
    value, (_, metrics) = LOSS(*start, TASK.batch(rows, 8), KEY)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], [nats.sum(), tokens.sum()], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], [hits.sum(), tokens.sum()])
    scores, predictions = evaluate(TASK, *start, rows, 4)
    np.testing.assert_allclose([row.nats for row in predictions], nats, rtol=1e-5)
    assert [row.tokens for row in predictions] == tokens.tolist()
    assert [row.hits for row in predictions] == hits.tolist()
    assert scores == {
        "loss": pytest.approx(expected, rel=1e-5),
        "perplexity": pytest.approx(math.exp(expected), rel=1e-4),
        "accuracy": hits.sum() / tokens.sum(),
        "exact": (hits == tokens).mean(),
    }


def test_a_document_does_not_see_what_it_is_packed_with(packed, start):
    """The sums over a packed set are those over its documents alone."""
    pieces = [pack_documents([one], CONFIG.max_length, end=END) for one in documents()]
    assert all(rows.segments is None for rows in pieces)
    alone = TokenRows(
        tokens=np.concatenate([rows.tokens for rows in pieces]),
        targets=np.concatenate([rows.targets for rows in pieces]),
    )
    together = predict(TASK, *start, packed, 4)
    expected = by_hand(start, alone).sum(axis=0)
    np.testing.assert_allclose(np.sum(together, axis=0), expected, rtol=1e-5)
    assert len(together) == len(packed) < len(alone)


def test_padding_changes_nothing(packed, start):
    """Neither the rows that a batch has too many, nor tokens without a target."""
    exact = GRAD(*start, TASK.batch(packed, len(packed)), KEY)
    batch = TASK.batch(packed, 8)
    padding = batch["segments"] == 0
    assert padding[: len(packed)].any()
    assert padding[len(packed) :].any()
    batch["tokens"][padding] = 7
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        exact,
        GRAD(*start, batch, KEY),
    )
    # without segments, padding at the end of a row is hidden by causality
    rows = copy_rows(8, lengths=(1, 5), symbols=8, seed=0)
    clean, dirty = TASK.batch(rows, 8), TASK.batch(rows, 8)
    dirty["tokens"][rows.tokens == PAD] = 7
    assert (clean["tokens"] != dirty["tokens"]).any()
    assert LOSS(*start, clean, KEY)[0] == LOSS(*start, dirty, KEY)[0]


def test_no_target_counts(packed, start):
    batch = TASK.batch(packed, 8)
    batch["targets"][:] = -1
    (value, (_, metrics)), grads = GRAD(*start, batch, KEY)
    assert value == 0
    assert metrics == {"loss": (0, 0), "accuracy": (0, 0)}
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_jit_is_eager(packed, start):
    batch = jax.tree.map(jnp.asarray, TASK.batch(packed, 8))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        TASK.loss(*start, batch, KEY),
        LOSS(*start, batch, KEY),
    )


def test_loss_in_bfloat16_is_close_and_float32(packed, start):
    params, state = start
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    batch = TASK.batch(packed, 8)
    exact, _ = LOSS(params, state, batch, KEY)
    rounded, (_, metrics) = LOSS(half, state, batch, KEY)
    assert {one.dtype for one in (rounded, *metrics["loss"])} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    assert rounded != exact


def test_training_drops_by_the_key_and_prediction_does_not(packed, start):
    task = language.make(dataclasses.replace(CONFIG, dropout=0.5))
    batch, loss = task.batch(packed, 8), jax.jit(task.loss)
    first, again, other = (
        float(loss(*start, batch, jax.random.key(seed))[0]) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    kept = [row.nats for row in predict(task, *start, packed, 4)]
    assert kept == [row.nats for row in predict(TASK, *start, packed, 4)]


def test_scores_of_a_split():
    """A row without targets counts nowhere; float64 keeps what float32 would lose."""
    score = TASK.score
    rows = [RowScore(3.0, 4, 4), RowScore(0.0, 0, 0), RowScore(1.0, 2, 1)]
    assert score(rows, None) == {
        "loss": pytest.approx(4 / 6, rel=1e-15),
        "perplexity": pytest.approx(math.exp(4 / 6), rel=1e-15),
        "accuracy": 5 / 6,
        "exact": 1 / 2,
    }
    many = [RowScore(np.float32(2**24), 2**20, 0)] + [RowScore(np.float32(1), 1, 1)] * 9
    assert score(many, None)["loss"] == (2**24 + 9) / (2**20 + 9)


@pytest.mark.parametrize("nats", [math.nan, math.inf, 1e6])
def test_a_model_that_diverged(nats):
    with pytest.raises(InputError, match=r"not finite .* diverged: lower the learning"):
        TASK.score([RowScore(np.float32(nats), 10, 1)], None)


@pytest.mark.parametrize("rows", [[], [RowScore(0.0, 0, 0)]])
def test_nothing_to_score(rows):
    with pytest.raises(InputError, match="no target counts"):
        TASK.score(rows, None)


@pytest.mark.parametrize(
    ("tokens", "targets", "reason"),
    [
        ([0] * 13, [1] * 13, "rows have 13 tokens and the decoder takes 12"),
        ([0, 11], [1, 1], r"tokens must be in \[0, 11\), got 0 to 11"),
        ([0, -1], [1, 1], r"tokens must be in \[0, 11\), got -1 to 0"),
        ([0, 1], [1, 11], r"targets must be in \[-1, 11\), got 1 to 11"),
        ([0, 1], [1, -2], r"targets must be in \[-1, 11\), got -2 to 1"),
    ],
)
def test_rows_that_do_not_fit_the_decoder(tokens, targets, reason):
    rows = TokenRows(tokens=np.int32([tokens]), targets=np.int32([targets]))
    with pytest.raises(InputError, match=reason):
        TASK.batch(rows, 1)


def test_overfits_real_lines():
    """Of each conversation all is learnt but the first character, which is unknown.

    More than that only a leak between the conversations of a row could teach.
    """
    texts = read_chatterbot_texts().documents
    chosen = {text[0]: text for text in texts if 20 < len(text) < 40}
    chosen = list(chosen.values())[:8]
    vocabulary = Vocabulary.build(chosen, "character")
    encoded = [vocabulary.encode(text) for text in chosen]
    rows = pack_documents(encoded, 80, end=END)
    assert len(rows) == 4
    config = DecoderConfig(
        vocabulary=len(vocabulary), max_length=80, width=32, layers=1, heads=2
    )
    task = language.make(config)
    result = fit(task, adaxw(0.01), rows, FitConfig(steps=100, batch_size=4))
    scores, _ = evaluate(task, result.params, result.state, rows, 4)
    count = (rows.targets >= 0).sum()
    best = (count - len(chosen) + 1) / count
    assert best - 0.01 < scores["accuracy"] <= best
