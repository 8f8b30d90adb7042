"""MNIST from its four IDX files, as a set with one label a row."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data.multilabel import MultilabelData

SIDE, CLASSES = 28, 10
PARTS = {"train": 60_000, "t10k": 10_000}


def read_mnist(folder: Path) -> tuple[MultilabelData, MultilabelData]:
    """Read 60,000 training rows and 10,000 test rows; pixels lie in [0, 1].

    Raises:
        InputError: If a file is missing, or is not the IDX file it should be.
    """
    train, test = (_read_part(folder, part, rows) for part, rows in PARTS.items())
    return train, test


def _read_part(folder: Path, part: str, rows: int) -> MultilabelData:
    images = folder / f"{part}-images-idx3-ubyte.gz"
    digits_path = folder / f"{part}-labels-idx1-ubyte.gz"
    pixels = _read_idx(images, (rows, SIDE, SIDE)).reshape(rows, SIDE * SIDE)
    digits = _read_idx(digits_path, (rows,))
    if digits.max() >= CLASSES:
        raise InputError(
            f"{digits_path}: a label is {digits.max()}, expected 0 to {CLASSES - 1}: "
            "download it again."
        )
    return MultilabelData(
        features=pixels.astype(np.float32) / 255,
        labels=csr_array(np.eye(CLASSES, dtype=np.int8)[digits]),
        label_names=tuple(map(str, range(CLASSES))),
        ids=tuple(map(str, range(rows))),
        path=str(images),
    )


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read unsigned bytes of this shape; the header is checked before the body."""
    if not path.is_file():
        raise InputError(f"{path}: not there: name the folder of data with --data")
    form, count = f">{1 + len(shape)}I", math.prod(shape)
    # two zero bytes, 8 for unsigned bytes, the number of axes
    expected = (0x0800 + len(shape), *shape)
    try:
        with gzip.open(path) as stream:
            header = stream.read(struct.calcsize(form))
            if header != struct.pack(form, *expected):
                raise InputError(
                    f"{path}: the header is {header.hex(' ', 4)!r}, expected the magic "
                    f"number {expected[0]:#06x} and the sizes {shape}: "
                    "download it again."
                )
            body = stream.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: not readable as gzip ({error}): download it again."
        ) from None
    if len(body) != count:
        raise InputError(
            f"{path}: {'more' if len(body) > count else 'fewer'} bytes than the header "
            f"announces, {count}: download it again."
        )
    return np.frombuffer(body, np.uint8).reshape(shape)
