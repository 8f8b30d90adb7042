"""Images as bytes on the way to the device and as shares of 255 on it."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from zlpr_jax._errors import InputError
from zlpr_jax.data.images import ImageData, ImageRecord

Images = UInt8[Array, "N H W C"] | Float[Array, "N H W C"]


def scaled_pixels(images: Images, dtype: Any = jnp.float32) -> Float[Array, "N H W C"]:
    """Pixels in [0, 1]: bytes are divided by 255, others are taken as they are."""
    pixels = images.astype(dtype)
    return pixels / 255 if images.dtype == jnp.uint8 else pixels


def byte_pixels(images: Float[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N H W C"]:
    """Pixels in [0, 1] as bytes, rounded, as image files hold them.

    Examples:
        >>> byte_pixels(np.float32([0, 0.5, 1, 1.1]).reshape(1, 2, 2, 1)).ravel()
        array([  0, 128, 255, 255], dtype=uint8)
    """
    return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def image_batch(
    records: ImageData | Sequence[ImageRecord], size: int, shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """The images of a batch, uint8 `[size, H, W, C]`, and `where` they are real.

    Raises:
        InputError: If an image has another shape.
    """
    stored = isinstance(records, ImageData)
    images = np.zeros((size, *shape), np.uint8)
    for row in range(len(records)):
        image = records.images[row] if stored else records[row].image
        if image.shape != shape:
            raise InputError(
                f"the image {records[row].id} has the shape {image.shape}, but the "
                f"model takes {shape} (height, width, channels): resize the images, or "
                "train a model on these."
            )
        images[row] = image
    return {"images": images, "where": np.arange(size) < len(records)}
