"""Images in a NumPy archive, read without pickle and without trust in its headers."""

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax.data._images import MAX_BYTES, ImageData, brief, numbered
from zlpr_jax.data._open import shorten

_PLAIN = ("images", "labels")
_KERAS = ("x_train", "y_train", "x_test", "y_test")
_CHUNK = 2**20


def parse_npz(content: bytes, path: Path) -> tuple[ImageData, ImageData | None]:
    """Parse an .npz file.

    Args:
        content: the file.
        path: the file, for errors.

    Returns:
        The images of the arrays images [and labels], and None; or those of x_train
        [and y_train], and of x_test [and y_test] or None.

    Raises:
        InputError: it is no zip, an array is missing or another one there, or one is
            not uint8 images or whole-number labels.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # a damaged directory fails in many ways
        raise _damaged(path, error) from None
    known = _PLAIN if "images" in names else _KERAS
    orphan = "y_test" in names and "x_test" not in names
    if known[0] not in names or orphan or set(names) - set(known):
        found = shorten(map(repr, names)) or "none"
        raise InputError(
            f"{path}: has the arrays {found}; expected images [labels], or x_train "
            "[y_train] [x_test [y_test]], and no others: save it with "
            "numpy.savez(path, images=..., labels=...)"
        )
    train = _part(archive, path, names, *known[:2])
    if "x_test" not in names:
        return train, None
    return train, _part(archive, path, names, *known[2:])


def _part(
    archive: zipfile.ZipFile, path: Path, names: list[str], name: str, label_name: str
) -> ImageData:
    images = _array(archive, path, name)
    shape = list(images.shape)
    if images.dtype != np.uint8:
        raise InputError(
            f"{path}: array {name!r} is {images.dtype}; expected uint8, 0 to 255: "
            "convert it, floats in [0, 1] with (255 * x).round().astype('uint8')"
        )
    if len(shape) not in (3, 4) or 0 in shape or shape[3:] not in ([], [1], [3]):
        raise InputError(
            f"{path}: array {name!r} has the shape {shape}; expected [N, H, W] or "
            "[N, H, W, C] with C 1 or 3, none of them 0: reshape it, channels last"
        )
    if label_name not in names:
        return numbered(images, None, path)
    labels = _array(archive, path, label_name)
    # Keras keeps the labels of CIFAR-10 as a column.
    column = labels.reshape(-1) if labels.shape[1:] == (1,) else labels
    if column.dtype.kind not in "iu" or column.ndim != 1:
        raise InputError(
            f"{path}: array {label_name!r} is {labels.dtype} {list(labels.shape)}; "
            f"expected the class of each image, whole numbers [{len(images)}]: "
            "convert it, one-hot rows with argmax(-1)"
        )
    return numbered(images, column, path)


def _array(archive: zipfile.ZipFile, path: Path, name: str) -> npt.NDArray[Any]:
    """One array; nothing is allocated before its size is known to be true."""
    try:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("neither stored nor deflated")
        with archive.open(info) as file, warnings.catch_warnings():
            warnings.simplefilter("error")
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(file)]
            shape, fortran, dtype = read_header(file)
            start = file.tell()
    except Exception as error:  # a damaged header fails in many ways
        raise _damaged(path, error, name) from None
    if dtype.hasobject:
        raise InputError(
            f"{path}: array {name!r} holds Python objects, which only pickle reads; "
            "expected numbers: save it with a numeric dtype"
        )
    promised = math.prod(shape) * dtype.itemsize
    held = info.file_size - start
    if promised != held or min(shape, default=1) < 0:
        raise InputError(
            f"{path}: the header of array {name!r} promises {dtype} {list(shape)}, "
            f"{promised} bytes; the archive holds {held}: damaged, save it again"
        )
    if promised > MAX_BYTES:
        raise InputError(
            f"{path}: array {name!r} is {dtype} {list(shape)}, {promised} bytes; "
            f"expected at most {MAX_BYTES}, for it lies in memory: save fewer images"
        )
    # In pieces: a member can unpack to more than its entry in the archive says.
    content = bytearray()
    try:
        with archive.open(info) as file:
            file.read(start)
            while piece := file.read(_CHUNK):
                content += piece
        if len(content) != promised:
            raise EOFError(f"{len(content)} bytes of {promised}")
        flat = np.frombuffer(content, dtype)
        return flat.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # zlib, the checksum, a cut
        raise _damaged(path, error, name) from None


def _damaged(path: Path, error: Exception, name: str | None = None) -> InputError:
    where = "" if name is None else f"array {name!r} is "
    return InputError(
        f"{path}: {where}damaged or cut off, expected a whole .npz file, a zip of "
        f".npy arrays ({brief(error)}): save it again with numpy.savez"
    )
