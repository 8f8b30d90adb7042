"""The image classifier's task: batches, shifts, loss, and a handful of real images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_digits

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.images import ImageData
from zlpr_jax.models.cnn import CNNConfig
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import image_classes
from zlpr_jax.tasks.image_classes import parameter_digest, shift_images
from zlpr_jax.training import FitConfig, evaluate, fit, predict

CONFIG = CNNConfig(image_shape=(8, 8, 1), classes=10, channels=(8,), features=32)


@pytest.fixture(scope="module")
def start():
    """Drawn parameters; to initialise them would take longer than each of the tests."""
    shapes = jax.eval_shape(image_classes.make(CONFIG).init, jax.random.key(0))
    rng = np.random.default_rng(1)

    def draw(shape):
        fan_in = np.prod(shape.shape[:-1])
        return np.float32(rng.normal(size=shape.shape) * fan_in**-0.5)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def digits():
    """64 real images of digits, 8 x 8."""
    found = load_digits()
    return ImageData(
        images=np.uint8(found.images[:64, :, :, None] * (255 / 16)),
        labels=np.int32(found.target[:64]),
        label_names=tuple("0123456789"),
        ids=tuple(str(i) for i in range(64)),
        path="digits",
    )


@pytest.fixture(scope="module")
def unmoved():
    """A task that moves no image, and its compiled loss with gradient."""
    task = image_classes.make(CONFIG, shift=0)
    return task, jax.jit(jax.value_and_grad(task.loss, has_aux=True))


@pytest.fixture(scope="module")
def trained(digits, start, unmoved):
    task, _ = unmoved
    config = FitConfig(steps=150, batch_size=32)
    return task, fit(task, adaxw(0.01), digits, config, initial=start)


def test_is_a_task():
    task = image_classes.make(CONFIG)
    assert isinstance(task, Task)
    assert task.headline == ("accuracy", "max")


def test_batches_hold_the_records(digits):
    task = image_classes.make(CONFIG)
    few = digits.take([5, 3, 9])
    batch = task.batch(few, 4)
    assert {name: array.dtype for name, array in batch.items()} == {
        "images": np.uint8,
        "labels": np.int32,
        "where": np.bool_,
    }
    np.testing.assert_array_equal(batch["images"][:3], digits.images[[5, 3, 9]])
    assert not batch["images"][3:].any()
    np.testing.assert_array_equal(batch["labels"], [*digits.labels[[5, 3, 9]], 0])
    np.testing.assert_array_equal(batch["where"], [True] * 3 + [False])
    again = task.batch([digits[5], digits[3], digits[9]], 4)
    jax.tree.map(np.testing.assert_array_equal, batch, again)


def test_images_without_labels_can_only_be_predicted(digits, start):
    task = image_classes.make(CONFIG)
    params, state = start
    unlabelled = dataclasses.replace(digits, labels=None, label_names=())
    batch = task.batch(unlabelled, 64)
    assert "labels" not in batch
    mixed = [digits[0], unlabelled[1]]
    assert "labels" not in task.batch(mixed, 2)
    assert len(predict(task, params, state, unlabelled, 64)) == 64
    with pytest.raises(InputError, match="have no labels"):
        task.loss(params, state, batch, jax.random.key(0))
    with pytest.raises(InputError, match="have no labels"):
        task.score([], unlabelled)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_that_are_no_class(digits, label):
    wrong = dataclasses.replace(digits.take([0]), labels=np.int32([label]))
    with pytest.raises(InputError, match=f"10 classes, got {label}"):
        image_classes.make(CONFIG).batch(wrong, 1)


def test_loss_metrics_and_scores_by_hand(digits, start, unmoved):
    """Of 60 images; the batch has four rows more, which change nothing."""
    task, step = unmoved
    params, state = start
    few, key = digits.take(range(60)), jax.random.key(0)
    batch = task.batch(few, 64)
    batch["images"][60:] = 255
    logits = jax.jit(task.predict)(params, state, batch)["logits"]
    batch["labels"][60:] = logits[60:].argmax(axis=1)  # hits, were they counted
    rows = log_softmax(np.asarray(logits[:60], np.float64), axis=1)
    expected = -rows[np.arange(60), few.labels].mean()
    hits = (rows.argmax(axis=1) == few.labels).sum()
    (value, (_, metrics)), grads = step(params, state, batch, key)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], [60 * expected, 60], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], [hits, 60])
    batch["images"][60:] = 0
    _, again = step(params, state, batch, key)
    jax.tree.map(np.testing.assert_array_equal, grads, again)
    scores = task.score(predict(task, params, state, few, 48), few)
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)
    assert scores["accuracy"] == hits / 60


def test_loss_in_bfloat16_is_close_and_float32(digits, start, unmoved):
    task, step = unmoved
    params, state = start
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    batch = task.batch(digits, 64)
    (exact, _), _ = step(params, state, batch, jax.random.key(0))
    loss = jax.jit(task.loss)
    rounded, (_, metrics) = loss(half, state, batch, jax.random.key(0))
    assert {one.dtype for one in (rounded, *metrics["loss"])} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded, exact, rtol=0.01)


def test_overfits_real_images(digits, trained):
    task, result = trained
    scores, predictions = evaluate(task, result.params, result.state, digits, 48)
    assert scores["accuracy"] == 1
    assert scores["loss"] < 0.02
    assert len(predictions) == 64


def test_features_are_what_the_logits_come_from(digits, trained):
    task, result = trained
    predictions = predict(task, result.params, result.state, digits, 48)
    features = np.stack([row.features for row in predictions])
    output = jax.tree.map(np.asarray, result.params["output"])
    np.testing.assert_allclose(
        np.stack([row.logits for row in predictions]),
        features @ output["kernel"] + output["bias"],
        rtol=1e-4,
        atol=1e-4,
    )


def test_parameters_that_are_not_finite(digits):
    task = image_classes.make(CONFIG)
    prediction = image_classes.ClassPrediction(np.full(10, np.nan), np.zeros(32))
    with pytest.raises(InputError, match="training has diverged"):
        task.score([prediction], digits.take([0]))


@pytest.mark.parametrize("most", [0, 2])
def test_shifts_move_and_never_wrap(most):
    """Each image is one of the (2 most + 1)^2 moved ones, made by slices; all occur."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (6, 5, 3)).astype(np.uint8)
    images = jnp.asarray(np.broadcast_to(image, (600, *image.shape)))
    moved = jax.jit(shift_images, static_argnums=2)(jax.random.key(0), images, most)
    assert moved.shape == images.shape
    assert moved.dtype == jnp.uint8
    expected = set()
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            made = np.zeros_like(image)
            for i in range(6):
                for j in range(5):
                    if 0 <= i - down < 6 and 0 <= j - right < 5:
                        made[i, j] = image[i - down, j - right]
            expected.add(made.tobytes())
    assert {row.tobytes() for row in np.asarray(moved)} == expected


def test_training_shifts_and_drops_by_the_key(digits, start):
    for config, shift in ((CONFIG, 2), (dataclasses.replace(CONFIG, dropout=0.5), 0)):
        task = image_classes.make(config, shift=shift)
        params, state = start
        batch, loss = task.batch(digits, 64), jax.jit(task.loss)
        first, again, other = (
            float(loss(params, state, batch, jax.random.key(seed))[0])
            for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other


@pytest.mark.parametrize("shift", [-1, 8])
def test_bad_shift(shift):
    with pytest.raises(ValueError, match="shift must be"):
        image_classes.make(CONFIG, shift=shift)


def test_digest_changes_with_a_bit_and_not_with_the_order():
    params = {
        "b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "a": [jnp.zeros(3, jnp.bfloat16), np.ones((), np.float32)],
    }
    digest = parameter_digest(params)
    assert len(digest) == 64
    turned = {"a": params["a"], "b": {"kernel": jnp.asarray(params["b"]["kernel"])}}
    assert parameter_digest(turned) == digest
    kernel = params["b"]["kernel"]
    bit = (kernel.view(np.uint32) ^ np.eye(2, 3, dtype=np.uint32)).view(np.float32)
    others = [
        {"b": {"kernel": bit}},
        {"b": {"kernel": kernel.reshape(3, 2)}},
        {"b": {"kernel": kernel.view(np.int32)}},
        {"b": {"weight": kernel}},
        {"c": {"kernel": kernel}},
        {"b": {"kernel": kernel[:, ::-1]}},
    ]
    found = {parameter_digest({"a": params["a"], **other}) for other in others}
    assert len(found | {digest}) == 1 + len(others)
    # the same bytes whatever the machine's order, and the layout in memory
    swapped = kernel.astype(">f4")
    assert parameter_digest({**params, "b": {"kernel": swapped}}) == digest
    fortran = np.asfortranarray(kernel)
    assert parameter_digest({**params, "b": {"kernel": fortran}}) == digest
