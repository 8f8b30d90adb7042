"""Many images in one picture."""

import contextlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError

_GAP = 2


def image_grid(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Lay images out in rows, on white, with a gap of two pixels.

    Args:
        images: uint8 [N, H, W, C].
        columns: images in a row, >= 1.

    Returns:
        uint8 [height, width, C].

    Examples:
        >>> image_grid(np.zeros((5, 28, 28, 1), np.uint8), columns=3).shape
        (62, 92, 1)
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    tall, wide = height + _GAP, width + _GAP
    grid = np.full((rows * tall + _GAP, columns * wide + _GAP, channels), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * tall + _GAP, column * wide + _GAP
        grid[top : top + height, left : left + width] = image
    return grid


def check_png(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless `path` ends in .png and is free to write to."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: pictures are written as .png: name such a file.")
    if os.path.exists(path):
        raise InputError(f"{path}: exists: name another file.")


def write_png(path: str | os.PathLike[str], image: npt.NDArray[np.uint8]) -> None:
    """Write an image as a PNG file, which appears whole or not at all.

    Args:
        path: the file, with the suffix .png; it must not exist.
        image: uint8 [H, W, C] with C 1 or 3.

    Raises:
        InputError: the file exists, cannot be written, or has another suffix.
    """
    from PIL import Image

    check_png(path)
    path = Path(path)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    new = path.with_name(f".new-{path.name}")
    try:
        picture.save(new, format="PNG")
        new.rename(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written: {reason}.") from None
    finally:
        with contextlib.suppress(OSError):  # where it could not be made
            new.unlink()
