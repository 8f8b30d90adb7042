"""CIFAR-10 in its binary version: records of a label and 32 x 32 pixels, in planes."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax.data._images import ImageData, numbered
from zlpr_jax.data._open import read_bytes

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

RECORD = 1 + 3 * 32 * 32

_FILES = re.compile(r"(data|test)_batch.*\.bin(\.gz)?")


def is_cifar_name(name: str) -> bool:
    """Whether a file has a name of the binary version.

    Examples:
        >>> is_cifar_name("data_batch_1.bin.gz"), is_cifar_name("data_batch_1")
        (True, False)
    """
    return _FILES.fullmatch(name) is not None


def parse_cifar(contents: Sequence[bytes], paths: Sequence[Path]) -> ImageData:
    """Parse CIFAR-10 files into one set.

    Args:
        contents: the files, unpacked.
        paths: the files, for errors.

    Returns:
        The images [N, 32, 32, 3] in the order of the files, with the ten classes.

    Raises:
        InputError: a file is not made of whole records, or a label is above 9.
    """
    batches = []
    for content, path in zip(contents, paths, strict=True):
        if len(content) % RECORD:
            raise InputError(
                f"{path}: {len(content)} bytes; expected a multiple of {RECORD}, the "
                "records of CIFAR-10's binary version: is it cut off, or CIFAR-100?"
            )
        batch = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
        largest = int(batch[:, 0].max())
        if largest >= len(CLASSES):
            raise InputError(
                f"{path}: has the label {largest}; expected 0 to 9, as in CIFAR-10's "
                "binary version: is it another file?"
            )
        batches.append(batch)
    records = np.concatenate(batches)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    path = paths[0] if len(paths) == 1 else paths[0].parent
    return numbered(planes.transpose(0, 2, 3, 1), records[:, 0], path, CLASSES)


def read_cifar_folder(
    folder: Path, names: Sequence[str]
) -> tuple[ImageData, ImageData | None]:
    """Read the training and test images of a folder like CIFAR-10's.

    Args:
        folder: the folder.
        names: its files with CIFAR-10's names.

    Returns:
        The images of data_batch*.bin by name, and those of test_batch*.bin or None.

    Raises:
        InputError: there is no data_batch*.bin, or a file is malformed.
    """
    # "x.bin" stands before "x.bin.gz": the unpacked one if both are there.
    files = {name.removesuffix(".gz"): folder / name for name in sorted(names)[::-1]}
    parts: list[ImageData | None] = []
    for part in ("data_batch", "test_batch"):
        paths = [files[name] for name in sorted(files) if name.startswith(part)]
        contents = [read_bytes(path) for path in paths]
        parts.append(parse_cifar(contents, paths) if paths else None)
    train, test = parts
    if train is None:
        raise InputError(
            f"{folder}: has test_batch*.bin but no data_batch*.bin: add them, or name "
            "one file to read it alone"
        )
    return train, test
