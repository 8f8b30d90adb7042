"""The Entropic AutoEncoder, and a plain and a variational one on the same backbone."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from zlpr_jax._typing import AxisName
from zlpr_jax.models._batch_norm import BatchNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The shape of an encoder and of its mirror image, the decoder.

    Attributes:
        image_shape: Height, width and channels `(H, W, C)` of an image.
        latent: Dimensions d of a code.
        hidden: Widths of the encoder's hidden linear layers; the decoder has them in
            reverse order.
        channels: Widths of the convolutions before them, each of which halves height
            and width, rounded up; empty for a multi-layer perceptron.
    """

    image_shape: tuple[int, int, int]
    latent: int = 16
    hidden: tuple[int, ...] = (512, 512)
    channels: tuple[int, ...] = ()

    def __post_init__(self):
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(
                "image_shape must be (height, width, channels), each >= 1, "
                f"got {self.image_shape}."
            )
        if self.latent < 1:
            raise ValueError(f"latent must be >= 1, got {self.latent}.")
        for name in ("hidden", "channels"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(
                    f"every width in {name} must be >= 1, got {getattr(self, name)}."
                )

    @property
    def grids(self) -> tuple[tuple[int, int, int], ...]:
        """The shape of an image, and of what each convolution makes of it.

        Examples:
            >>> AutoencoderConfig(image_shape=(28, 28, 1), channels=(32, 64, 8)).grids
            ((28, 28, 1), (14, 14, 32), (7, 7, 64), (4, 4, 8))
        """
        shapes = [self.image_shape]
        for channels in self.channels:
            height, width, _ = shapes[-1]
            shapes.append((-(-height // 2), -(-width // 2), channels))
        return tuple(shapes)


class Autoencoder(nnx.Module):
    """A plain autoencoder: `z = E(x)`, `x' = D(z)`.

    Nothing says how its codes are distributed, so there is nothing to sample from.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> config = AutoencoderConfig(image_shape=(8, 8, 1), latent=2, hidden=(32,))
        >>> model = Autoencoder(config, rngs=nnx.Rngs(0))
        >>> images, codes = model(jnp.zeros((5, 8, 8, 1)))
        >>> images.shape, codes.shape
        ((5, 8, 8, 1), (5, 2))
    """

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.encoder = _Encoder(config, config.latent, rngs=rngs)
        self.decoder = _Decoder(config, rngs=rngs)

    def encode(self, images: Float[Array, "N H W C"]) -> Float[Array, "N d"]:
        """Give the codes of images with pixels in [0, 1], float32."""
        return self.encoder(images)

    def decode(self, codes: Float[Array, "N d"]) -> Float[Array, "N H W C"]:
        """Give the images of codes, pixels in (0, 1), float32."""
        return self.decoder(codes)

    def __call__(
        self, images: Float[Array, "N H W C"]
    ) -> tuple[Float[Array, "N H W C"], Float[Array, "N d"]]:
        """Give the reconstructions of images, and their codes."""
        codes = self.encode(images)
        return self.decode(codes), codes


class EAE(nnx.Module):
    """An autoencoder whose codes are normalised over the batch: `z = BN(E(x))`.

    It is trained on

        L = mean ||x - D(z)||^2 - lambda H(Z)

    with an estimate of the joint entropy H of the codes (`estimators.knn_entropy`).
    Batch normalisation without scale and bias gives each dimension mean 0 and variance
    1; among all such distributions the standard Gaussian has the largest entropy, so
    that new images are `D(z)` with z ~ N(0, I). No noise is added to the codes.

    Mean and variance are those of the batch in training, and running means of these
    otherwise. They are float32 whatever the parameters are, and the variance is that of
    the differences from the mean: `E[z^2] - E[z]^2` is wrong for codes far from zero.

    Args:
        config: The network.
        axis_name: Mesh axes of `jax.shard_map` or `jax.pmap` over which batches are
            split: mean and variance are then those of the whole batch. Under `jax.jit`
            they are, however the arrays are placed.
        rngs: For initialisation.

    Examples:
        >>> import jax
        >>> from flax import nnx
        >>> config = AutoencoderConfig(image_shape=(8, 8, 1), latent=2, hidden=(32,))
        >>> model = EAE(config, rngs=nnx.Rngs(0))
        >>> images = jax.random.uniform(jax.random.key(0), (100, 8, 8, 1))
        >>> codes = model.encode(images, training=True)
        >>> [f"{value:.3f}" for value in codes.std(0)]
        ['1.000', '1.000']
        >>> model.decode(jax.random.normal(jax.random.key(1), (4, 2))).shape
        (4, 8, 8, 1)

    References:
        Su, "EAE: the Entropic AutoEncoder", https://arxiv.org/abs/2002.10631,
        https://kexue.fm/archives/7343
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        axis_name: AxisName | None = None,
        rngs: nnx.Rngs,
    ):
        self.encoder = _Encoder(config, config.latent, rngs=rngs)
        self.norm = BatchNorm(config.latent, axis_name)
        self.decoder = _Decoder(config, rngs=rngs)

    def encode(
        self,
        images: Float[Array, "N H W C"],
        *,
        training: bool = False,
        where: Bool[Array, " N"] | None = None,
    ) -> Float[Array, "N d"]:
        """Give the codes of images.

        Args:
            images: Pixels in [0, 1].
            training: Whether to normalise by the batch and to update the running
                statistics.
            where: The images that are real, not padding; the others enter no statistic.

        Returns:
            Codes `[N, d]`, float32.
        """
        return self.norm(self.encoder(images), training=training, where=where)

    def decode(self, codes: Float[Array, "N d"]) -> Float[Array, "N H W C"]:
        """Give the images of codes, pixels in (0, 1), float32."""
        return self.decoder(codes)

    def __call__(
        self,
        images: Float[Array, "N H W C"],
        *,
        training: bool = False,
        where: Bool[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "N H W C"], Float[Array, "N d"]]:
        """Give the reconstructions of images, and their codes; see `encode`."""
        codes = self.encode(images, training=training, where=where)
        return self.decode(codes), codes


class VAE(nnx.Module):
    """A variational autoencoder: `q(z|x) = N(mean, diag exp(log_variance))`.

    It is trained on

        L = mean ||x - D(z)||^2 + beta KL(q(z|x) || N(0, I)),  z ~ q(z|x)

    With beta = 1 that is, but for a constant, the negative evidence lower bound of
    pixels with variance 1/2 around `D(z)`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> config = AutoencoderConfig(image_shape=(8, 8, 1), latent=2, hidden=(32,))
        >>> model = VAE(config, rngs=nnx.Rngs(0))
        >>> mean, log_variance = model.encode(jnp.zeros((5, 8, 8, 1)))
        >>> codes = sample_gaussian(mean, log_variance, jax.random.key(0))
        >>> model.decode(codes).shape
        (5, 8, 8, 1)

    References:
        Kingma and Welling, "Auto-Encoding Variational Bayes",
        https://arxiv.org/abs/1312.6114
    """

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.encoder = _Encoder(config, 2 * config.latent, rngs=rngs)
        self.decoder = _Decoder(config, rngs=rngs)

    def encode(
        self, images: Float[Array, "N H W C"]
    ) -> tuple[Float[Array, "N d"], Float[Array, "N d"]]:
        """Give mean and log-variance of q(z|x) for pixels in [0, 1], float32."""
        mean, log_variance = jnp.split(self.encoder(images), 2, axis=-1)
        return mean, log_variance

    def decode(self, codes: Float[Array, "N d"]) -> Float[Array, "N H W C"]:
        """Give the images of codes, pixels in (0, 1), float32."""
        return self.decoder(codes)

    def __call__(
        self, images: Float[Array, "N H W C"], *, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "N H W C"], Float[Array, "N d"], Float[Array, "N d"]]:
        """Give the reconstructions of images, and mean and log-variance of q(z|x).

        Args:
            images: Pixels in [0, 1].
            key: Randomness for z ~ q(z|x); `None` reconstructs from the mean.
        """
        mean, log_variance = self.encode(images)
        codes = mean if key is None else sample_gaussian(mean, log_variance, key)
        return self.decode(codes), mean, log_variance


def sample_gaussian(
    mean: Float[Array, "*shape"],
    log_variance: Float[Array, "*shape"],
    key: Key[Array, ""],
) -> Float[Array, "*shape"]:
    """Draw from N(mean, exp(log_variance)), differentiable in both."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.exp(log_variance / 2) * noise


def spherical_interpolation(
    a: Float[Array, "*batch d"], b: Float[Array, "*batch d"], steps: int
) -> Float[Array, "steps *batch d"]:
    """Go from one code to another along an arc around the origin.

        z_t = (sin((1 - t) w) a + sin(t w) b) / sin(w),  w the angle between a and b

    Codes from N(0, I) in many dimensions have nearly the same norm. So do those on the
    arc, while the middle of a straight line is far nearer to the origin than any code
    that the decoder was trained on.

    Args:
        a: First codes `[..., d]`.
        b: Last codes `[..., d]`.
        steps: Codes on the way, both ends among them, at least 2.

    Returns:
        Codes `[steps, ..., d]`. Where a and b have no angle, or there is no shortest
        arc (parallel, opposite or zero), they lie on the straight line.

    Raises:
        ValueError: If `steps` is below 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> [f"{x:.3f} {y:.3f}" for x, y in spherical_interpolation(a, b, 3)]
        ['1.000 0.000', '0.707 0.707', '0.000 1.000']

    References:
        White, "Sampling Generative Networks", https://arxiv.org/abs/1609.04468
    """
    if steps < 2:
        raise ValueError(f"steps must be >= 2, both ends among them, got {steps}.")
    t = jnp.linspace(0, 1, steps, dtype=a.dtype).reshape(steps, *[1] * a.ndim)
    # |b| a and |a| b have the same norm, so that the tangent of half their angle is the
    # norm of their difference over that of their sum; arccos is inexact for small ones.
    a_norm, b_norm = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    u, v = b_norm * a, a_norm * b
    apart = jnp.linalg.norm(u - v, axis=-1, keepdims=True)
    along = jnp.linalg.norm(u + v, axis=-1, keepdims=True)
    angle = 2 * jnp.arctan2(apart, along)
    sine = jnp.sin(angle)
    straight = jnp.abs(sine) < 1e-6
    angle, sine = (jnp.where(straight, 1, x)[None] for x in (angle, sine))
    first = jnp.where(straight[None], 1 - t, jnp.sin((1 - t) * angle) / sine)
    last = jnp.where(straight[None], t, jnp.sin(t * angle) / sine)
    path = first * a[None] + last * b[None]
    return path.at[0].set(a).at[-1].set(b)


class _Encoder(nnx.Module):
    """Stride-2 convolutions, linear layers, ReLU between all of them."""

    def __init__(self, config: AutoencoderConfig, width: int, *, rngs: nnx.Rngs):
        self.convolutions = nnx.List(
            nnx.Conv(grid[-1], following[-1], (3, 3), strides=2, rngs=rngs)
            for grid, following in itertools.pairwise(config.grids)
        )
        height, breadth, channels = config.grids[-1]
        widths = (height * breadth * channels, *config.hidden)
        self.hidden = nnx.List(
            nnx.Linear(fan_in, fan_out, rngs=rngs)
            for fan_in, fan_out in itertools.pairwise(widths)
        )
        # float32 whatever the parameters are: distances between codes and their
        # statistics need more than the three digits of bfloat16
        self.output = nnx.Linear(widths[-1], width, dtype=jnp.float32, rngs=rngs)

    def __call__(self, images: Float[Array, "N H W C"]) -> Float[Array, "N width"]:
        x = images.astype(self.output.kernel.dtype)
        for layer in self.convolutions:
            x = jax.nn.relu(layer(x))
        x = x.reshape(len(x), -1)
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.output(x)


class _Decoder(nnx.Module):
    """The mirror image; its last layer is linear, then a sigmoid.

    The sigmoid keeps every image in [0, 1], also those of codes never seen. Each
    stride-2 convolution is undone by doubling the pixels, cut to the size that it had
    come from, and a 3x3 convolution: a transposed one leaves checkerboards.
    """

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.grids = config.grids[::-1]
        height, breadth, channels = self.grids[0]
        size = height * breadth * channels
        widths = (config.latent, *reversed(config.hidden), size)
        self.layers = nnx.List(
            nnx.Linear(fan_in, fan_out, rngs=rngs)
            for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.convolutions = nnx.List(
            nnx.Conv(grid[-1], following[-1], (3, 3), rngs=rngs)
            for grid, following in itertools.pairwise(self.grids)
        )

    def __call__(self, codes: Float[Array, "N d"]) -> Float[Array, "N H W C"]:
        x = codes.astype(self.layers[0].kernel.dtype)
        for number, layer in enumerate(self.layers):
            x = layer(jax.nn.relu(x) if number else x)
        x = x.reshape(len(x), *self.grids[0])
        for layer, (height, width, _) in zip(
            self.convolutions, self.grids[1:], strict=True
        ):
            x = jax.nn.relu(x).repeat(2, axis=1).repeat(2, axis=2)
            x = layer(x[:, :height, :width])
        return jax.nn.sigmoid(x.astype(jnp.float32))
