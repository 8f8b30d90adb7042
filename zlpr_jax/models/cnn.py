"""A small convolutional classifier of images, and the features it decides by."""

import dataclasses
import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from zlpr_jax._checks import check_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """The shape of a `CNN`.

    Attributes:
        image_shape: Height, width and channels of an image.
        classes: Width of the output.
        channels: Channels of each convolution; every one halves height and width.
        features: Width of the hidden layer after the convolutions.
        dropout: Share of these features dropped in training, in [0, 1).
    """

    image_shape: tuple[int, int, int]
    classes: int
    channels: tuple[int, ...] = (16, 32)
    features: int = 64
    dropout: float = 0.0

    def __post_init__(self):
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(
                "image_shape must be (height, width, channels), each >= 1, "
                f"got {self.image_shape}."
            )
        if not self.channels or min(self.channels) < 1:
            raise ValueError(
                "channels must name at least one convolution, with widths >= 1, "
                f"got {self.channels}."
            )
        for name in ("classes", "features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")


class CNN(nnx.Module):
    """Convolutions of stride 2, a hidden layer, logits.

    Stride takes the place of pooling: on a CPU a training step is then about eight
    times as fast.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> config = CNNConfig(image_shape=(28, 28, 1), classes=10)
        >>> model = CNN(config, rngs=nnx.Rngs(0))
        >>> images = jnp.zeros((2, 28, 28, 1))
        >>> model(images).shape, model.features(images).shape
        ((2, 10), (2, 64))
    """

    def __init__(self, config: CNNConfig, *, rngs: nnx.Rngs):
        self.image_shape = config.image_shape
        height, width, channels = config.image_shape
        self.convolutions = nnx.List(
            nnx.Conv(before, after, (3, 3), strides=2, rngs=rngs)
            for before, after in itertools.pairwise((channels, *config.channels))
        )
        for _ in config.channels:
            height, width = -(-height // 2), -(-width // 2)
        self.hidden = nnx.Linear(
            height * width * config.channels[-1], config.features, rngs=rngs
        )
        self.output = nnx.Linear(config.features, config.classes, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def features(
        self, images: Float[Array, "B height width channels"]
    ) -> Float[Array, "B D"]:
        """Give what the output layer decides by: the hidden layer, without dropout.

        Args:
            images: Pixels in [0, 1], `[B, H, W, C]`.

        Returns:
            Activations after the ReLU, `[B, features]`.

        Raises:
            ValueError: If the images do not have the model's `image_shape`.
        """
        check_shape("an image", images.shape[1:], self.image_shape, "image_shape")
        x = images
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return jax.nn.relu(self.hidden(x.reshape(len(x), -1)))

    def __call__(
        self,
        images: Float[Array, "B height width channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B classes"]:
        """Score every class of every image.

        Args:
            images: Pixels in [0, 1], `[B, H, W, C]`.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            Logits `[B, classes]`.
        """
        features = self.features(images)
        if key is not None:
            features = self.dropout(features, deterministic=False, rngs=key)
        return self.output(features)
