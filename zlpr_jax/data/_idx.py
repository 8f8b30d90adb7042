"""IDX, the format of MNIST: a magic number, the sizes, then the bytes."""

import dataclasses
import math
import re
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax.data._images import ImageData, numbered
from zlpr_jax.data._open import read_bytes

_DTYPES = {9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_IMAGES = re.compile(r"(?P<part>.*)images[-.]idx3-ubyte(\.gz)?")
_FILES = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")


def parse_idx(content: bytes, path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    r"""Parse an IDX file of bytes.

    Args:
        content: the file, unpacked.
        path: the file, for errors.
        ndim: the dimensions it must have: 3 for images, 1 for labels.

    Returns:
        uint8 of that many dimensions, a view of `content`.

    Raises:
        InputError: the header is another one, or the sizes it promises are not those
            of the file.

    Examples:
        >>> content = b"\0\0\x08\x01" + b"\0\0\0\x03" + b"\x05\x00\x04"
        >>> parse_idx(content, Path("labels"), 1)
        array([5, 0, 4], dtype=uint8)
    """
    what = "images [N, H, W]" if ndim == 3 else "labels [N]"
    start = 4 + 4 * ndim
    if content[:2] != b"\0\0" or len(content) < 4:
        raise InputError(
            f"{path}: begins with the bytes {content[:4].hex(' ')}; expected an IDX "
            f"file of {what}, 00 00 08 {ndim:02x}: is it another file?"
        )
    dtype, dimensions = content[2], content[3]
    if dtype != 8:
        raise InputError(
            f"{path}: IDX of {_DTYPES.get(dtype, f'the unknown type {dtype}')}; "
            "expected uint8: convert it"
        )
    if dimensions != ndim:
        raise InputError(
            f"{path}: IDX of {dimensions} dimensions; expected {what}: is it another "
            "file of the set?"
        )
    if len(content) < start:
        raise InputError(
            f"{path}: {len(content)} bytes; expected a header of {start}: copy it again"
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    promised = math.prod(shape)
    if not promised:
        raise InputError(f"{path}: sizes {list(shape)}; expected at least one image")
    if promised != len(content) - start:
        raise InputError(
            f"{path}: sizes {list(shape)} promise {promised} bytes after the header, "
            f"it has {len(content) - start}: cut off or damaged, copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def is_idx_name(name: str) -> bool:
    """Whether a file has one of the names of MNIST's four.

    Examples:
        >>> is_idx_name("t10k-labels.idx1-ubyte"), is_idx_name("images-idx3-ubyte")
        (True, False)
    """
    return _FILES.fullmatch(name) is not None


def read_idx(path: Path, content: bytes | None = None) -> ImageData:
    """Read an IDX file of images, with its labels if they lie beside it.

    Args:
        path: the images. For "X-images-idx3-ubyte" the labels are
            "X-labels-idx1-ubyte"; either may have a dot before "idx" and end in .gz.
        content: the images file if it was read before.

    Returns:
        The set; labels are None if `path` has another name or there is no such file.

    Raises:
        InputError: a file is malformed, or the counts differ.
    """
    images = parse_idx(read_bytes(path) if content is None else content, path, 3)
    name = _IMAGES.fullmatch(path.name)
    labels = None if name is None else _find(path.parent, name["part"], "labels-idx1")
    if labels is None:
        return numbered(images, None, path)
    data = numbered(images, parse_idx(read_bytes(labels), labels, 1), labels)
    return dataclasses.replace(data, path=str(path))


def read_idx_folder(folder: Path) -> tuple[ImageData, ImageData | None]:
    """Read the training and test images of a folder like MNIST's.

    Args:
        folder: holds train-images-idx3-ubyte, and perhaps train-labels-idx1-ubyte and
            the same two of t10k.

    Returns:
        The training images, and the test images or None.

    Raises:
        InputError: labels or test images are there without their images, or a file is
            malformed.
    """
    parts: list[ImageData | None] = []
    for part in ("train-", "t10k-"):
        images = _find(folder, part, "images-idx3")
        orphan = part == "train-" or _find(folder, part, "labels-idx1") is not None
        if images is None and orphan:
            raise InputError(
                f"{folder}: has no {part}images-idx3-ubyte[.gz], but other IDX files "
                "of MNIST's names: add it, or name one file to read it alone"
            )
        parts.append(None if images is None else read_idx(images))
    train, test = parts
    assert train is not None
    return train, test


def _find(folder: Path, part: str, kind: str) -> Path | None:
    """The first of a file's names; the unpacked one if both are there."""
    for ending in ("-ubyte", "-ubyte.gz"):
        for name in (kind, kind.replace("-", ".")):
            path = folder / f"{part}{name}{ending}"
            if path.is_file():
                return path
    return None
