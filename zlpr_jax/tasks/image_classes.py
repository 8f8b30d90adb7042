"""Classification of images, and what the classifier sees in them."""

import hashlib
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Integer, Key
from scipy.special import logsumexp

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.images import ImageData, ImageRecord
from zlpr_jax.models.cnn import CNN, CNNConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.optim._arrays import path_name
from zlpr_jax.tasks.pixels import Images, image_batch, scaled_pixels

Labels = Integer[np.ndarray, " N"]

NO_LABELS = "the images have no labels: training and scoring need one for each."


class ClassPrediction(NamedTuple):
    """What the classifier says of one image.

    Attributes:
        logits: A score per class, `[C]`.
        features: What they were computed from, `[D]`.
    """

    logits: np.ndarray
    features: np.ndarray


def make(config: CNNConfig, *, shift: int = 2) -> Task:
    """Build the task: a `CNN` that tells the class of an image.

    Args:
        config: The network.
        shift: Pixels that a training image is moved by at most, in each direction.

    Returns:
        A `Task` over `ImageRecord`s with one label each; a prediction is a
        `ClassPrediction`, for which no label is needed.
    """
    if not 0 <= shift < min(config.image_shape[:2]):
        raise ValueError(
            f"shift must be at least 0 and less than the height and width of an image, "
            f"got {shift} for the shape {config.image_shape}."
        )
    graph = nnx.eval_shape(lambda: CNN(config, rngs=nnx.Rngs(0)))
    apply = functionalize(graph).apply
    features = functionalize(graph, method="features").apply

    def init(key):
        _, params, state = functionalize(CNN(config, rngs=nnx.Rngs(key)))
        return params, state

    def batch(
        records: ImageData | Sequence[ImageRecord], size: int
    ) -> dict[str, np.ndarray]:
        arrays = image_batch(records, size, config.image_shape)
        labels = _labels(records, config.classes)
        if labels is not None:
            arrays["labels"] = np.zeros(size, np.int32)
            arrays["labels"][: len(labels)] = labels
        return arrays

    def loss_and_metrics(params, state, batch, key):
        if "labels" not in batch:
            raise InputError(NO_LABELS)
        shift_key, dropout_key = jax.random.split(key)
        images = shift_images(shift_key, batch["images"], shift)
        images = scaled_pixels(images, params["output"]["kernel"].dtype)
        logits, state = apply(params, state, images, key=dropout_key)
        logits = logits.astype(np.promote_types(logits.dtype, np.float32))
        where, labels = batch["where"], batch["labels"]
        rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        total = jnp.where(where, rows, 0).sum()
        hits = (where & (logits.argmax(-1) == labels)).sum().astype(jnp.float32)
        count = where.sum().astype(jnp.float32)
        metrics = {"loss": (total, count), "accuracy": (hits, count)}
        return total / count, (state, metrics)

    def predict(params, state, batch):
        images = scaled_pixels(batch["images"], params["output"]["kernel"].dtype)
        return {
            "logits": apply(params, state, images)[0],
            "features": features(params, state, images)[0],
        }

    def decode(outputs, records) -> list[ClassPrediction]:
        rows = zip(outputs["logits"], outputs["features"], strict=True)
        return [ClassPrediction(*row) for row, _ in zip(rows, records, strict=False)]

    def score(predictions, records) -> dict[str, float]:
        labels = _labels(records, config.classes)
        if labels is None:
            raise InputError(NO_LABELS)
        logits = np.stack([row.logits for row in predictions]).astype(np.float64)
        if not np.isfinite(logits).all():
            raise InputError(
                "the predictions are not finite, training has diverged: lower the "
                "learning rate."
            )
        chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return {
            "accuracy": float((logits.argmax(axis=1) == labels).mean()),
            "loss": float((logsumexp(logits, axis=1) - chosen).mean()),
        }

    return Task(
        init=init,
        batch=batch,
        loss=loss_and_metrics,
        predict=predict,
        decode=decode,
        score=score,
        headline=("accuracy", "max"),
    )


def shift_images(key: Key[Array, ""], images: Images, most: int) -> Images:
    """Move each image by its own number of pixels, at most `most` in each direction.

    What leaves the image is lost, what enters it is 0.

    Args:
        key: Draws the shifts, uniformly.
        images: `[B, H, W, C]`.
        most: Pixels, >= 0.

    Returns:
        Images of the same shape and dtype.
    """
    pads = ((0, 0), (most, most), (most, most), (0, 0))
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * most + 1)

    def cut(image, start):
        return jax.lax.dynamic_slice(image, (*start, 0), images.shape[1:])

    return jax.vmap(cut)(jnp.pad(images, pads), starts)


def parameter_digest(params: PyTree) -> str:
    """Name parameters by their content: the SHA-256, in hexadecimal.

    It covers the "/"-joined name, dtype, shape and little-endian bytes of every array,
    in the order of the names.

    Examples:
        >>> parameter_digest({"bias": np.zeros(3, np.float32)})[:12]
        'f16ebb53d240'
    """
    digest, paths = hashlib.sha256(), jax.tree_util.tree_leaves_with_path(params)
    named = [(path_name(path), np.asarray(leaf)) for path, leaf in paths]
    for name, leaf in sorted(named, key=operator.itemgetter(0)):
        digest.update(f"{name} {leaf.dtype.name} {leaf.shape}\n".encode())
        digest.update(leaf.astype(leaf.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _labels(records: ImageData | Sequence[ImageRecord], classes: int) -> Labels | None:
    """The labels `[N]`; `None` if an image has none."""
    if isinstance(records, ImageData):
        labels = records.labels
    else:
        found = [record.label for record in records]
        labels = None if None in found else np.array(found, np.int32)
    if labels is not None and not ((labels >= 0) & (labels < classes)).all():
        raise InputError(
            f"a label must be one of the classifier's {classes} classes, "
            f"got {labels.min()} to {labels.max()}: train it with this data."
        )
    return labels
