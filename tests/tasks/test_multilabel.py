"""The multi-label task: batches, scaling, loss, and a handful of real records."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

from zlpr_jax._task import Task
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.data.yeast import read_yeast
from zlpr_jax.losses import zlpr_loss
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.models.text_classifier import TextClassifierConfig
from zlpr_jax.nn import SparseFeatures
from zlpr_jax.optim import adax
from zlpr_jax.tasks import multilabel
from zlpr_jax.tasks.features import feature_scaling, vectorize
from zlpr_jax.training import FitConfig, evaluate, fit


def data_of(features, labels=None):
    rows = len(features) if isinstance(features, tuple) else features.shape[0]
    labels = np.ones((rows, 2), np.int8) if labels is None else labels
    return MultilabelData(
        features=features,
        labels=csr_array(labels.astype(np.int8)),
        label_names=tuple(f"l{i}" for i in range(labels.shape[1])),
        ids=tuple(str(i) for i in range(rows)),
        path="test",
    )


@pytest.fixture(scope="module")
def wide():
    """Sparse features on both sides of the width that is made dense."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((6, 5000)) < 0.002, 1, 0).astype(np.float32)
    dense[3] = 0
    return data_of(csr_array(dense), rng.random((6, 3)) < 0.5), dense


def test_is_a_task():
    task = multilabel.make(MLPConfig(features=3, labels=2))
    assert isinstance(task, Task)
    assert task.headline == ("micro_f1", "max")


@pytest.mark.parametrize("features", [100, 5000])
def test_batches_hold_the_records(wide, features):
    data, dense = wide
    data = dataclasses.replace(data, features=data.features[:, :features])
    task = multilabel.make(MLPConfig(features=features, labels=3))
    batch = task.batch(list(data), 8)
    got = batch["features"]
    if features == 5000:
        assert isinstance(got, SparseFeatures)
        made = np.zeros((8, features), np.float32)
        np.add.at(made, (np.arange(8)[:, None], got.indices), got.values)
        got = made
    np.testing.assert_array_equal(got[:6], dense[:, :features])
    np.testing.assert_array_equal(got[6:], 0)
    np.testing.assert_array_equal(batch["labels"][:6], data.labels.toarray() > 0)
    np.testing.assert_array_equal(batch["where"], [True] * 6 + [False] * 2)


def test_padded_rows_change_nothing(wide):
    data, _ = wide
    task = multilabel.make(MLPConfig(features=5000, labels=3))
    params, state = task.init(jax.random.key(0))
    key = jax.random.key(1)
    exact = jax.jit(task.loss)(params, state, task.batch(list(data), 6), key)
    padded = jax.jit(task.loss)(params, state, task.batch(list(data), 16), key)
    np.testing.assert_allclose(exact[0], padded[0], rtol=1e-6)
    for name, (total, count) in exact[1][1].items():
        np.testing.assert_allclose(total, padded[1][1][name][0], rtol=1e-6)
        np.testing.assert_allclose(count, padded[1][1][name][1])


def test_loss_and_metrics_by_hand():
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    data = data_of(np.eye(2, 4, dtype=np.float32), labels)
    task = multilabel.make(MLPConfig(features=4, labels=3, hidden=()))
    params, state = task.init(jax.random.key(0))
    batch = task.batch(list(data), 2)
    logits = jax.jit(task.predict)(params, state, batch)
    loss = jax.jit(task.loss)
    value, (_, metrics) = loss(params, state, batch, jax.random.key(0))
    np.testing.assert_allclose(
        value, zlpr_loss(logits, jnp.asarray(labels > 0)).mean(), rtol=1e-6
    )
    predicted = np.asarray(logits) > 0
    hits = (predicted & (labels > 0)).sum()
    np.testing.assert_allclose(metrics["micro_f1"][0], 2 * hits)
    np.testing.assert_allclose(metrics["micro_f1"][1], predicted.sum() + labels.sum())


def scores_of(rows):
    """A network that says the same of every batch, and other things of other keys."""

    def score(key):
        return rows[int(jax.random.key_data(key)[-1]) % len(rows)], "state"

    return score


def test_objectives_by_hand():
    rng = np.random.default_rng(0)
    one, other = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(2))
    labels, key = jnp.asarray(rng.random((4, 3)) < 0.5), jax.random.key(0)
    plain, logits, state = multilabel.ZLPR(scores_of([one]), labels, key)
    np.testing.assert_allclose(plain, zlpr_loss(one, labels), rtol=1e-6)
    assert logits is one
    assert state == "state"
    soft = multilabel.Objective(smoothing=0.2)(scores_of([one]), labels, key)[0]
    targets = np.where(labels, 0.8, 0).astype(np.float32)
    np.testing.assert_allclose(soft, zlpr_loss(one, jnp.asarray(targets)), rtol=1e-6)

    passes = iter([one, other])
    r_drop = multilabel.Objective(r_drop=0.3)
    got = r_drop(lambda key: (next(passes), None), labels, key)[0]
    s, t = np.float64(one), np.float64(other)
    p, q = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-t))
    mean = (
        np.float64(zlpr_loss(one, labels)) + np.float64(zlpr_loss(other, labels))
    ) / 2
    expected = mean + 0.3 * ((p - q) * (s - t)).sum(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_r_drop_needs_two_different_passes():
    seen = []
    objective = multilabel.Objective(r_drop=1.0)
    logits = jnp.zeros((2, 3))
    score = lambda key: (seen.append(jax.random.key_data(key).tolist()), logits)[::-1]
    loss, _, _ = objective(score, jnp.zeros((2, 3), bool), jax.random.key(0))
    assert seen[0] != seen[1]
    np.testing.assert_allclose(loss, zlpr_loss(logits, jnp.zeros((2, 3), bool)))


TINY = TextClassifierConfig(
    encoder=BertConfig(
        vocabulary=8, width=8, layers=1, heads=2, hidden=8, max_length=64, pooler=False
    ),
    labels=2,
)


def spelled(texts):
    """A token for each letter."""
    return [np.array(["abcdefgh".index(c) for c in text], np.int32) for text in texts]


def test_batches_of_texts():
    task = multilabel.make_text(TINY, spelled)
    texts = ("abc", "h", "abcdefgh" * 3)
    for records in (data_of(texts), list(data_of(texts))):
        np.testing.assert_array_equal(task.lengths(records), [3, 1, 24])
        batch = task.batch(records, 4)
        assert batch["tokens"].shape == (4, 24)
        np.testing.assert_array_equal(batch["real"].sum(1), [3, 1, 24, 0])
        np.testing.assert_array_equal(batch["tokens"][0, :3], [0, 1, 2])
        np.testing.assert_array_equal(batch["where"], [True] * 3 + [False])
        assert batch["labels"].shape == (4, 2)
        # of several processes each builds its rows of a batch as wide as the whole
        assert task.batch(records[:1], 2, 40)["tokens"].shape == (2, 48)


def test_learns_texts_and_gives_them_back_in_order():
    rng = np.random.default_rng(0)
    texts = tuple(
        "".join(rng.choice(list("abcd"), rng.integers(1, 20))) for _ in range(40)
    )
    labels = np.array([["a" in text, "b" in text] for text in texts])
    data = data_of(texts, labels)
    task = multilabel.make_text(TINY, spelled)
    config = FitConfig(steps=150, batch_size=20, bucket=True)
    result = fit(task, adax(3e-2, l2=0.0), data, config)
    scores, predictions = evaluate(task, result.params, result.state, data, 8)
    assert scores["micro_f1"] > 0.95
    # worked off by length, they come back in the order of the records
    one_by_one = [
        evaluate(task, result.params, result.state, data.take([row]), 8)[1][0]
        for row in (0, 7, 39)
    ]
    for row, alone in zip((0, 7, 39), one_by_one, strict=True):
        np.testing.assert_allclose(predictions[row], alone, atol=1e-4)


def test_bce_is_the_sum_over_labels():
    logits = np.array([[1.0, -2.0, 0.5]])
    labels = np.array([[True, False, False]])
    p = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(labels, p, 1 - p)).sum()
    got = multilabel.bce_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(got, [expected], rtol=1e-6)


def test_scaling_of_dense_columns():
    rng = np.random.default_rng(0)
    numbers = rng.normal(5000, 3, (200, 2))
    binary = rng.random((200, 1)) < 0.01
    constant = np.full((200, 1), 7.0)
    features = np.concatenate([numbers, binary, constant], 1).astype(np.float32)
    shift, scale = feature_scaling(data_of(features))
    scaled = (features.astype(np.float64) - shift) * scale
    assert scaled[:, 3].std() == 0
    assert scaled[:, :2].std(0) == pytest.approx(scaled[:, 0].std(), rel=1e-3)
    assert shift[2] == 0, "a rare word keeps its zeros"
    assert scale[2] == pytest.approx(scale[0] * numbers[:, 0].std(), rel=1e-3)
    assert (scaled**2).sum(1).mean() == pytest.approx(4, rel=1e-4)


def test_scaling_of_sparse_columns_keeps_zeros():
    dense = np.array([[0, 1, 0], [500, 0, 0.5], [250, 1, 0]], np.float32)
    shift, scale = feature_scaling(data_of(csr_array(dense)))
    assert not shift.any()
    scaled = dense * scale
    assert scaled[1, 0] == pytest.approx(scaled[0, 1])
    assert (scaled**2).sum(1).mean() == pytest.approx(3, rel=1e-5)


def test_texts_need_vectors_first():
    data = data_of(("red fish", "blue fish"))
    with pytest.raises(ValueError, match="use vectorize"):
        feature_scaling(data)
    tfidf = Tfidf.fit(data.features, min_df=1)
    vectors = vectorize(data, tfidf)
    assert vectors.num_features == len(tfidf.vocabulary)
    assert vectorize(vectors, None) is vectors


def test_prediction_lines():
    data = data_of(np.eye(2, 4, dtype=np.float32))
    logits = np.array([[1.5, -0.25], [0.0, 0.1234567]], np.float32)
    lines = list(multilabel.prediction_lines(logits, data))
    assert lines == [
        '{"id": "0", "labels": ["l0"], "scores": {"l0": 1.5, "l1": -0.25}}\n',
        '{"id": "1", "labels": ["l1"], "scores": {"l0": 0.0, "l1": 0.123457}}\n',
    ]


@pytest.mark.parametrize("loss", ["ZLPR", "BCE"])
def test_overfits_a_handful_of_real_records(loss):
    train, _ = read_yeast()
    data = train.take(range(32))
    task = multilabel.make(
        MLPConfig(features=103, labels=14, hidden=(64,)),
        objective=getattr(multilabel, loss),
        scaling=feature_scaling(data),
    )
    tx = adax(3e-3, l2=0.0)
    records = list(data)
    result = fit(task, tx, records, FitConfig(steps=300, batch_size=32))
    scores, _ = evaluate(task, result.params, result.state, records, 32)
    assert scores["micro_f1"] == scores["subset_accuracy"] == 1
