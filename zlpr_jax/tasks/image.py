"""Autoencoders of images: the EAE, and two to compare it with."""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt32

from zlpr_jax._checks import check_interval
from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import AxisName, PyTree
from zlpr_jax.data.images import ImageData, ImageRecord
from zlpr_jax.estimators import knn_entropy, radius_statistics
from zlpr_jax.models.eae import (
    EAE,
    VAE,
    Autoencoder,
    AutoencoderConfig,
    sample_gaussian,
)
from zlpr_jax.nn import functionalize
from zlpr_jax.tasks.pixels import image_batch, scaled_pixels


class ImageModel(NamedTuple):
    """A task, and what its trained parameters are for.

    Attributes:
        task: For `training.fit`; a prediction is an `ImageCode`.
        encode: `(params, state, images) -> codes`: uint8 `[N, H, W, C]`, or float with
            pixels in [0, 1], to float32 `[N, d]`; the mean of q(z|x) if it is a VAE.
        decode: `(params, state, codes) -> images`: float32 `[N, d]` to float32
            `[N, H, W, C]`. Codes from N(0, I) give new images. Both can be jitted.
    """

    task: Task
    encode: Callable[[PyTree, PyTree, Array], Array]
    decode: Callable[[PyTree, PyTree, Array], Array]


class ImageCode(NamedTuple):
    """The prediction for one image.

    Attributes:
        squared_error: `||x - D(z)||^2`, the sum over pixels in [0, 1].
        code: z, float32 `[d]`; the mean of q(z|x) if it is a VAE.
        log_variance: That of q(z|x), float32 `[d]`; `None` if it is not a VAE.
    """

    squared_error: Any
    code: npt.NDArray[np.float32]
    log_variance: npt.NDArray[np.float32] | None = None


def make_autoencoder(config: AutoencoderConfig) -> ImageModel:
    """Build a plain autoencoder, trained on `L = mean ||x - x'||^2`.

    Args:
        config: The network.

    Returns:
        An `ImageModel`. Its scores are those of `make_eae`; `loss` is `reconstruction`.
    """

    def objective(call, images, batch, key):
        (made, _), state = call(images)
        total, count = _sum(squared_error(images, made), batch["where"])
        sums = {"loss": (total, count), "reconstruction": (total, count)}
        return total / count, (state, sums)

    def score(predictions, records):
        rows = _stacked(predictions)
        scores = _scores(rows.squared_error, rows.code)
        return {"loss": scores["reconstruction"], **scores}

    return _image_model(Autoencoder, config, objective, score)


def make_eae(
    config: AutoencoderConfig,
    *,
    entropy_weight: float,
    k: int = 1,
    axis_name: AxisName | None = None,
) -> ImageModel:
    """Build an EAE, trained on `L = mean ||x - x'||^2 - entropy_weight H(Z)`.

    H is `knn_entropy` of the batch's codes, where an image that it has twice, as where
    two epochs meet, counts once. The scores are of a whole split, with the running
    statistics of batch normalisation:

    - `reconstruction`: mean squared error, a sum over pixels.
    - `entropy`: `knn_entropy` of the split's codes, in nats. It is biased: compare it
      only with that of as many samples from N(0, I), and not with the `batch_entropy`
      of training, which is of fewer codes, moved on purpose to raise it.
    - `radius_mean`, `radius_std`: of the norms of the codes. Compare them with
      `gaussian_radius`: a smaller spread is a thin shell, which raises the estimate
      more than the entropy.
    - `loss`: `reconstruction - entropy_weight entropy`.

    Args:
        config: The network.
        entropy_weight: lambda, >= 0; 0 is an autoencoder with batch normalisation.
        k: Which nearest neighbour the entropy is estimated from, >= 1.
        axis_name: Mesh axes of `jax.shard_map` or `jax.pmap` over which batches are
            split. Loss, metrics and statistics are then those of the whole batch on
            each device, and the gradient is the mean over devices. `training.fit`
            needs none: under `jax.jit` a batch is one, wherever its rows are.

    Returns:
        An `ImageModel`.

    Raises:
        ValueError: If `entropy_weight` is out of range.

    Examples:
        >>> import jax
        >>> config = AutoencoderConfig(image_shape=(8, 8, 1), latent=2, hidden=(32,))
        >>> model = make_eae(config, entropy_weight=1.0)
        >>> params, state = model.task.init(jax.random.key(0))
        >>> codes = jax.random.normal(jax.random.key(1), (4, 2))
        >>> model.decode(params, state, codes).shape
        (4, 8, 8, 1)
    """
    check_interval("entropy_weight", entropy_weight, "[0, inf)", "1 is a good start.")

    def of_all(numbers):
        """Of all devices together."""
        return numbers if axis_name is None else jax.lax.psum(numbers, axis_name)

    def objective(call, images, batch, key):
        where = batch["where"]
        (made, codes), state = call(images, training=True, where=where)
        total, count = of_all(_sum(squared_error(images, made), where))
        # Where epochs meet, or are smaller than a batch, it has images twice. Equal
        # codes say nothing of a density, have no gradient and outweigh all others.
        once = where & ~_repeated(batch["names"], axis_name)
        once = jnp.where(of_all(once.sum()) > k, once, where)
        entropy = knn_entropy(codes, k, where=once, axis_name=axis_name)
        loss = total / count - entropy_weight * entropy
        sums = {
            "loss": (loss * count, count),
            "reconstruction": (total, count),
            "batch_entropy": (entropy, jnp.ones_like(entropy)),
        }
        return loss, (state, sums)

    def score(predictions, records):
        rows = _stacked(predictions)
        scores = _scores(rows.squared_error, rows.code, k)
        loss = scores["reconstruction"] - entropy_weight * scores["entropy"]
        return {"loss": loss, **scores}

    network = functools.partial(EAE, axis_name=axis_name)
    return _image_model(network, config, objective, score)


def make_vae(config: AutoencoderConfig, *, beta: float = 1.0) -> ImageModel:
    """Build a VAE, trained on `L = mean ||x - x'||^2 + beta KL(q(z|x) || N(0, I))`.

    Training reconstructs from one z ~ q(z|x), prediction from its mean. The scores are
    those of `make_eae`, but for

    - `entropy`, `radius_mean`, `radius_std`: of codes drawn from q(z|x), one for each
      image and always with the same noise. The means alone are not what N(0, I) stands
      for in sampling.
    - `kl`: mean divergence, in nats.
    - `loss`: `reconstruction + beta kl`, with the reconstruction from the mean.

    Args:
        config: The network.
        beta: Weight of the divergence, >= 0.

    Returns:
        An `ImageModel`.

    Raises:
        ValueError: If `beta` is out of range.
    """
    check_interval("beta", beta, "[0, inf)", "1 is a good start.")

    def objective(call, images, batch, key):
        (made, mean, log_variance), state = call(images, key=key)
        total, count = _sum(squared_error(images, made), batch["where"])
        kl, _ = _sum(gaussian_kl(mean, log_variance), batch["where"])
        loss = total + beta * kl
        sums = {
            "loss": (loss, count),
            "reconstruction": (total, count),
            "kl": (kl, count),
        }
        return loss / count, (state, sums)

    def score(predictions, records):
        rows = _stacked(predictions)
        codes, divergence = _drawn(rows.code, rows.log_variance)
        kl = float(divergence)
        scores = {**_scores(rows.squared_error, np.asarray(codes)), "kl": kl}
        return {"loss": scores["reconstruction"] + beta * kl, **scores}

    return _image_model(VAE, config, objective, score)


def squared_error(
    images: Float[Array, "N H W C"], made: Float[Array, "N H W C"]
) -> Float[Array, " N"]:
    """Squared differences, summed over the pixels of each image."""
    return jnp.square(images - made).sum((1, 2, 3))


def gaussian_kl(
    mean: Float[Array, "N d"], log_variance: Float[Array, "N d"]
) -> Float[Array, " N"]:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, summed over dimensions.

    Examples:
        >>> import jax.numpy as jnp
        >>> gaussian_kl(jnp.array([[2.0, 0.0]]), jnp.zeros((1, 2)))
        Array([2.], dtype=float32)
    """
    # expm1: near the prior exp(v) - 1 - v is a small difference of large numbers
    terms = jnp.square(mean) + jnp.expm1(log_variance) - log_variance
    return terms.sum(-1) / 2


def _image_model(
    network: Callable[..., nnx.Module],
    config: AutoencoderConfig,
    objective: Callable[..., Any],
    score: Callable[..., dict[str, float]],
) -> ImageModel:
    """What the three have in common.

    Args:
        network: Module of `config` with `encode`, `decode` and `__call__`.
        config: Its shape.
        objective: `(call, images, batch, key) -> (loss, (state, metrics))`, with
            `call(images, ...) -> (output of the network, state)`.
        score: See `Task`.
    """
    graph = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    apply, apply_encoder, apply_decoder = (
        functionalize(graph, method=method).apply
        for method in ("__call__", "encode", "decode")
    )

    def init(key):
        _, params, state = functionalize(network(config, rngs=nnx.Rngs(key)))
        return params, state

    def posterior(params, state, images):
        """The codes; of a VAE also their log-variance."""
        codes, _ = apply_encoder(params, state, scaled_pixels(images))
        return codes if isinstance(codes, tuple) else (codes, None)

    def encode(params, state, images):
        return posterior(params, state, images)[0]

    def decode(params, state, codes):
        return apply_decoder(params, state, codes)[0]

    def batch(
        records: ImageData | Sequence[ImageRecord], size: int
    ) -> dict[str, np.ndarray]:
        names = np.zeros(size, np.uint32)
        for row, record in enumerate(records):
            names[row] = zlib.crc32(record.id.encode(errors="surrogatepass"))
        return {**image_batch(records, size, config.image_shape), "names": names}

    def loss(params, state, batch, key):
        call = functools.partial(apply, params, state)
        return objective(call, scaled_pixels(batch["images"]), batch, key)

    def predict(params, state, batch):
        codes, log_variance = posterior(params, state, batch["images"])
        made = decode(params, state, codes)
        error = squared_error(scaled_pixels(batch["images"]), made)
        outputs = {"squared_error": error, "codes": codes}
        if log_variance is not None:
            outputs["log_variance"] = log_variance
        return outputs

    def decode_rows(outputs, records) -> list[ImageCode]:
        names = ("squared_error", "codes", "log_variance")
        columns = [outputs[name][: len(records)] for name in names if name in outputs]
        return [ImageCode(*row) for row in zip(*columns, strict=True)]

    task = Task(
        init=init,
        batch=batch,
        loss=loss,
        predict=predict,
        decode=decode_rows,
        score=score,
        headline=("loss", "min"),
    )
    return ImageModel(task, encode, decode)


def _repeated(
    names: UInt32[Array, " N"], axis_name: AxisName | None
) -> Bool[Array, " N"]:
    """Which rows have the name of one before, on any device."""
    everyone, number = names, jnp.arange(len(names))
    if axis_name is not None:
        everyone = jax.lax.all_gather(names, axis_name, tiled=True)
        number = number + jax.lax.axis_index(axis_name) * len(names)
    before = jnp.arange(len(everyone))[None, :] < number[:, None]
    return ((names[:, None] == everyone[None, :]) & before).any(1)


def _sum(
    rows: Float[Array, " N"], where: Bool[Array, " N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum and number of the rows that are real."""
    return jnp.where(where, rows, 0).sum(), where.sum().astype(jnp.float32)


def _stacked(predictions: Sequence[ImageCode]) -> ImageCode:
    """Predictions as one, with arrays of rows; all of them have to be finite."""
    errors, codes, log_variances = zip(*predictions, strict=True)
    rows = ImageCode(
        squared_error=np.stack(errors),
        code=np.stack(codes),
        log_variance=None if log_variances[0] is None else np.stack(log_variances),
    )
    if not all(np.isfinite(column).all() for column in rows if column is not None):
        raise InputError(
            "the predictions are not finite, training has diverged: lower the "
            "learning rate (--optimizer.learning-rate)."
        )
    return rows


def _scores(
    errors: npt.NDArray[np.float32], codes: npt.NDArray[np.float32], k: int = 1
) -> dict[str, float]:
    """The scores that all three have."""
    if len(codes) <= k:
        raise InputError(
            f"the entropy of codes needs more than {k} of them, and the split has "
            f"{len(codes)}: take more images."
        )
    entropy, radius = _statistics(codes, k)
    return {
        "reconstruction": float(errors.mean(dtype=np.float64)),
        "entropy": float(entropy),
        "radius_mean": float(radius.mean),
        "radius_std": float(radius.std),
    }


@jax.jit
def _drawn(mean, log_variance):
    """Codes of a VAE, one for each image, and the mean divergence from the prior."""
    codes = sample_gaussian(mean, log_variance, jax.random.key(0))
    return codes, gaussian_kl(mean, log_variance).mean()


@functools.partial(jax.jit, static_argnums=1)
def _statistics(codes, k):
    return knn_entropy(codes, k), radius_statistics(codes)
