"""Sample quality: Frechet distances in the features of one trained classifier."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.images import ImageData
from zlpr_jax.models.cnn import CNNConfig
from zlpr_jax.recipes._config import OptimizerConfig
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._session import Session
from zlpr_jax.tasks import image_classes
from zlpr_jax.tasks.frechet import frechet_distance
from zlpr_jax.tasks.image import ImageModel
from zlpr_jax.tasks.pixels import byte_pixels
from zlpr_jax.training import FitConfig, evaluate, predict
from zlpr_jax.training._mesh import fetch

# Of the classifier, whatever the autoencoders are trained with: its features are the
# measure, and should not change with what is measured.
OPTIMIZER = OptimizerConfig(method="adaxw", learning_rate=5e-3)
BATCH_SIZE, DROPOUT, SHIFT = 128, 0.3, 2
# Images at a time, to generate and to look at.
CHUNK = 500


class Frechet(NamedTuple):
    """A classifier as a measure.

    Attributes:
        task: Its task.
        params: Its parameters.
        state: Its state.
        accuracy: Share of the test images that it names rightly.
        digest: SHA-256 of its parameters: distances by another one are others.
    """

    task: Task
    params: PyTree
    state: PyTree
    accuracy: float
    digest: str

    def features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """What the classifier decides by, `[N, D]`."""
        data = unlabelled(images)
        rows = predict(self.task, self.params, self.state, data, CHUNK)
        return np.stack([row.features for row in rows]).astype(np.float64)

    def distance(
        self, images: npt.NDArray[np.uint8], features: npt.NDArray[np.float64]
    ) -> float:
        """Between images and others, of which the features are given."""
        return frechet_distance(self.features(images), features)


def classifier_task(images: ImageData) -> Task:
    """The task of the classifier, for the size and the classes of these images."""
    config = CNNConfig(
        image_shape=images.image_shape,
        classes=len(images.label_names),
        dropout=DROPOUT,
    )
    # no image is moved by all of its height or width
    most = min(images.image_shape[:2]) - 1
    return image_classes.make(config, shift=min(SHIFT, most))


def train_classifier(
    session: Session, images: ImageData, test: ImageData, steps: int
) -> Frechet:
    """Train the classifier, always from the same seed.

    Args:
        session: The recipe at work.
        images: Training images with labels.
        test: Test images with labels.
        steps: Optimizer steps.

    Raises:
        Interrupted: If there was a Ctrl-C or SIGTERM.
    """
    task = classifier_task(images)
    settings = FitConfig(
        steps=steps,
        batch_size=BATCH_SIZE,
        eval_every=steps,
        report_every=session.settings.report_every,
    )
    name = "classifier"
    log = session.log.bind(model=name, seed=settings.seed)
    session.bar.start(name, headline=task.headline)
    tx = make_optimizer(OPTIMIZER, steps)
    fitted = session.fit(
        name, task, tx, images, settings, checkpoints=name, log=log, profile=False
    )
    params, state = fetch((fitted.params, fitted.state))
    scores, _ = evaluate(task, params, state, test, CHUNK)
    log.write({"step": fitted.step, "test": scores})
    session.bar.finish(f"{fitted.step} steps, test accuracy {scores['accuracy']:.4f}")
    digest = image_classes.parameter_digest(params)
    return Frechet(task, params, state, scores["accuracy"], digest)


def generate(
    model: ImageModel, params: PyTree, state: PyTree, codes: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Decode codes `[N, d]` to images `[N, H, W, C]`, rounded as image files are."""

    def parts() -> Iterator[npt.NDArray[np.uint8]]:
        decode = jax.jit(model.decode)
        for start in range(0, len(codes), CHUNK):
            chunk = codes[start : start + CHUNK]
            padded = np.zeros((CHUNK, codes.shape[1]), np.float32)
            padded[: len(chunk)] = chunk
            pixels = np.asarray(decode(params, state, padded))[: len(chunk)]
            yield byte_pixels(pixels)

    return np.concatenate(list(parts()))


def unlabelled(images: npt.NDArray[np.uint8]) -> ImageData:
    """Images without names, as a set."""
    ids = tuple(map(str, range(len(images))))
    return ImageData(
        images=images, labels=None, label_names=(), ids=ids, path="generated images"
    )
