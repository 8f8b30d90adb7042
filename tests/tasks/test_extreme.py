"""The extreme task: what the dense one gives, without its logits, on any mesh."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.multilabel import MultilabelData
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.nn import SparseFeatures
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import extreme, multilabel
from zlpr_jax.tasks.features import feature_scaling
from zlpr_jax.tasks.topk_scores import TOPK_SCORES
from zlpr_jax.training import (
    FitConfig,
    evaluate,
    fit,
    load_tree,
    make_mesh,
    predict,
    save_tree,
)

ROWS, FEATURES, LABELS = 64, 5000, 205
CONFIG = MLPConfig(features=FEATURES, labels=LABELS, hidden=(16,))


@pytest.fixture(scope="module")
def data():
    """Rows whose labels can be read off their features; the first row has none."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((ROWS, LABELS)) < 0.015, 1, 0)
    labels[0] = 0
    signature = rng.integers(0, FEATURES, (LABELS, 6))
    features = np.zeros((ROWS, FEATURES), np.float32)
    for row, label in np.argwhere(labels):
        features[row, signature[label]] = rng.random(6) + 0.5
    return MultilabelData(
        features=csr_array(features),
        labels=csr_array(labels.astype(np.int8)),
        label_names=tuple(f"l{i}" for i in range(LABELS)),
        ids=tuple(str(i) for i in range(ROWS)),
        path="test",
    )


def make(data, config=CONFIG, **options):
    counts = np.bincount(data.labels.indices, minlength=config.labels)
    scaling = feature_scaling(data)
    return extreme.make(
        config, label_counts=counts, rows=len(data), scaling=scaling, **options
    )


def losses_of(task, records, steps, mesh=None):
    """The training loss at every step."""
    losses = []
    result = fit(
        task,
        adaxw(3e-3, weight_decay=1e-2),
        records,
        FitConfig(steps=steps, batch_size=32, report_every=1),
        report=lambda progress: losses.append(progress.metrics["loss"]),
        mesh=mesh,
    )
    return result, np.array(losses)


def test_is_a_task_and_stays_sparse(data):
    task = make(data)
    assert isinstance(task, Task)
    assert task.headline[0] in TOPK_SCORES
    batch = task.batch(list(data)[:5], 8)
    assert isinstance(batch["features"], SparseFeatures)
    assert batch["labels"].shape == (8, 8)
    for row, record in zip(batch["labels"], list(data)[:5], strict=False):
        assert row[row >= 0].tolist() == record.labels.tolist()
    assert (batch["labels"][5:] == -1).all()


def test_trains_as_the_dense_task(data):
    # few enough features that the dense task scales them the same way
    data = dataclasses.replace(data, features=data.features[:, :4096])
    config = dataclasses.replace(CONFIG, features=4096)
    records = list(data)
    task = make(data, config)
    dense = multilabel.make(config, scaling=feature_scaling(data))
    result, losses = losses_of(task, records, 10)
    expected, dense_losses = losses_of(dense, records, 10)
    np.testing.assert_allclose(losses, dense_losses, rtol=2e-5)
    predicted = predict(task, result.params, result.state, records, 32)
    logits = np.stack(predict(dense, expected.params, expected.state, records, 32))
    best = -np.sort(-logits, axis=1)[:, :20]
    scores = np.stack([row.scores for row in predicted])
    np.testing.assert_allclose(scores, best, rtol=1e-3, atol=1e-4)
    labels = np.stack([row.labels for row in predicted])
    at_labels = np.take_along_axis(logits, labels, axis=1)
    np.testing.assert_allclose(scores, at_labels, rtol=1e-3, atol=1e-4)


def test_scale_of_the_features_is_limited(data):
    """The same function at first, but a smaller step for what a feature says."""
    dense = multilabel.make(CONFIG, scaling=feature_scaling(data))
    task, records = make(data, top=LABELS), list(data)
    key = jax.random.key(0)
    found, limited = (predict(t, *t.init(key), records, 32) for t in (dense, task))
    for logits, row in zip(found, limited, strict=True):
        np.testing.assert_allclose(row.scores, logits[row.labels], rtol=1e-4, atol=1e-5)
    scale = task.init(key)[1]["scaling"]["scale"]
    square = (data.features * np.asarray(scale)[None]).power(2).sum() / ROWS
    assert square == pytest.approx(extreme.ROW_SQUARE, rel=1e-4)


def test_padded_rows_change_nothing(data):
    task = make(data)
    params, state = task.init(jax.random.key(0))
    records = list(data)[:6]
    exact, padded = (
        jax.jit(task.loss)(params, state, task.batch(records, size), jax.random.key(1))
        for size in (6, 16)
    )
    np.testing.assert_allclose(exact[0], padded[0], rtol=1e-6)
    np.testing.assert_allclose(exact[1][1]["loss"], padded[1][1]["loss"], rtol=1e-6)


def test_scores_of_all_labels_are_never_held(data):
    config = MLPConfig(features=FEATURES, labels=40_000, hidden=(16,))
    task = make(data, config)
    params, state = jax.eval_shape(task.init, jax.random.key(0))
    batch = task.batch(list(data), 1024)
    key = jax.random.key(0)
    everything = 1024 * 40_000 * 4
    grad = jax.jit(jax.grad(task.loss, has_aux=True))
    for compiled in (
        grad.lower(params, state, batch, key).compile(),
        jax.jit(task.predict).lower(params, state, batch).compile(),
    ):
        assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * everything


def test_overfits_a_handful_of_records(data):
    task, records = make(data), list(data)
    result = fit(task, adaxw(1e-2), records, FitConfig(steps=150, batch_size=64))
    scores, _ = evaluate(task, result.params, result.state, records, 64)
    empty = sum(not len(record.labels) for record in records)
    assert scores["precision_at_1"] == pytest.approx(1 - empty / ROWS)
    assert scores["psp_at_5"] > 0.99


@pytest.fixture(scope="module")
def one_device(data):
    """Losses and predictions of 20 steps without a mesh."""
    task, records = make(data), list(data)
    result, losses = losses_of(task, records, 20)
    return losses, predict(task, result.params, result.state, records, 32)


@pytest.mark.parametrize(
    ("sizes", "spec", "part"),
    [
        # 205 labels, padded to 256 columns
        ({"label": 8}, P(None, "label"), (16, 32)),
        ({"data": 2, "fsdp": 2, "label": 2}, P("fsdp", "label"), (8, 128)),
    ],
)
def test_on_a_mesh_as_on_one_device(data, one_device, sizes, spec, part):
    records, mesh = list(data), make_mesh(**sizes)
    sharded = make(data, mesh=mesh)
    losses, rows = one_device
    result, sharded_losses = losses_of(sharded, records, 20, mesh)
    np.testing.assert_allclose(sharded_losses, losses, rtol=1e-5)
    layer = result.params["layers"][0]
    assert layer["kernel"].sharding.spec == spec
    assert layer["bias"].sharding.spec == P("label")
    assert layer["kernel"].addressable_shards[0].data.shape == part
    # the padded labels stay as they were
    assert not np.asarray(layer["kernel"])[:, LABELS:].any()
    assert not np.asarray(layer["bias"])[LABELS:].any()
    others = predict(sharded, result.params, result.state, records, 32, mesh=mesh)
    for row, other in zip(rows, others, strict=True):
        np.testing.assert_allclose(other.scores, row.scores, rtol=1e-4, atol=1e-4)
        assert other.labels.max() < LABELS
        assert other.labels[:5].tolist() == row.labels[:5].tolist()


def test_gradients_on_a_mesh(data):
    """Also where fsdp cannot split the rows of the output layer, which are 6."""
    config = dataclasses.replace(CONFIG, hidden=(6,))
    mesh = make_mesh(fsdp=4, label=2)
    found = []
    for task in (make(data, config), make(data, config, mesh=mesh)):
        params, state = task.init(jax.random.key(3))
        batch, key = task.batch(list(data), ROWS), jax.random.key(1)
        grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
        (loss, _), grads = grad(params, state, batch, key)
        found.append((loss, extreme.unsharded(grads, LABELS)))
    assert task.rules[0] == ("^layers/0/kernel$", P(None, "label"))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-7)


def test_parameters_on_a_mesh_begin_as_on_one_device(data):
    params, _ = make(data).init(jax.random.key(3))
    for label in (1, 8):  # a checkpoint fits both
        sharded, _ = make(data, mesh=make_mesh(label=label)).init(jax.random.key(3))
        assert sharded["layers"][0]["kernel"].shape == (16, 256)
        chex.assert_trees_all_equal(extreme.unsharded(sharded, LABELS), params)


def test_parameters_of_a_mesh_are_saved_for_one_device(data, tmp_path):
    task, sharded = make(data), make(data, mesh=make_mesh(fsdp=2, label=4))
    records = list(data)
    params, state = sharded.init(jax.random.key(0))
    saved = extreme.unsharded(params, LABELS)
    save_tree(tmp_path / "p.safetensors", {"params": saved, "state": state})
    like = dict(zip(("params", "state"), task.init(jax.random.key(1)), strict=True))
    loaded = load_tree(tmp_path / "p.safetensors", like)
    rows = predict(task, loaded["params"], loaded["state"], records, 64)
    others = predict(sharded, params, state, records, 64)
    for row, other in zip(rows, others, strict=True):
        np.testing.assert_allclose(other.scores, row.scores, rtol=1e-5, atol=1e-5)


def test_dense_features_and_two_hidden_layers():
    rng = np.random.default_rng(0)
    data = MultilabelData(
        features=rng.normal(size=(12, 7)).astype(np.float32),
        labels=csr_array((rng.random((12, 30)) < 0.2).astype(np.int8)),
        label_names=tuple(map(str, range(30))),
        ids=tuple(map(str, range(12))),
        path="test",
    )
    config = MLPConfig(features=7, labels=30, hidden=(8, 6), dropout=0.3)
    task = make(data, config)
    result, losses = losses_of(task, list(data), 3)
    assert np.isfinite(losses).all()
    assert result.params["layers"][1]["kernel"].shape == (6, 30)
    assert len(predict(task, result.params, result.state, list(data), 32)) == 12


def test_prediction_lines(data):
    rows = [
        extreme.TopLabels(np.array([3, 1], np.int32), np.array([0.5, -2], np.float32))
    ]
    line = next(extreme.prediction_lines(rows, data.take([4])))
    assert json.loads(line) == {
        "id": "4",
        "labels": ["l3"],
        "scores": {"l3": 0.5, "l1": -2.0},
    }
    assert list(json.loads(line)["scores"]) == ["l3", "l1"], "best first"
    line = next(extreme.prediction_lines(rows, data.take([4]), threshold=1.0))
    assert json.loads(line)["labels"] == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"top": 4}, "top must be"),
        ({"top": LABELS + 1}, "top must be"),
        ({"config": MLPConfig(features=5000, labels=LABELS, hidden=())}, "hidden"),
    ],
)
def test_bad_settings(data, settings, reason):
    with pytest.raises(InputError, match=reason):
        make(data, **settings)
