"""Image sets from files: one `read_images` for every format.

| source | format |
|---|---|
| a folder with train-images-idx3-ubyte, ... | MNIST's IDX, also .gz |
| an IDX file of images | by its magic number, also .gz |
| .npz | images [labels], or Keras's x_train [y_train x_test y_test] |
| a folder with data_batch_1.bin, ..., or one .bin | CIFAR-10, binary, also .gz |
| a folder | PNG images, or a subfolder for each class, or train/ and test/ of these |
"""

import os
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.data._cifar import RECORD, is_cifar_name, parse_cifar, read_cifar_folder
from zlpr_jax.data._idx import is_idx_name, read_idx, read_idx_folder
from zlpr_jax.data._images import ImageData, ImageRecord, matched
from zlpr_jax.data._npz import parse_npz
from zlpr_jax.data._open import read_bytes, shorten, unpacked_name
from zlpr_jax.data._png import is_png_name, list_folder, read_png_folder

__all__ = ["ImageData", "ImageRecord", "read_images"]

_KNOWN = (
    "MNIST's IDX files, CIFAR-10's *.bin files, an .npz file, or PNG images in a "
    "folder or a subfolder for each class"
)


def read_images(path: str | os.PathLike[str]) -> tuple[ImageData, ImageData | None]:
    """Read a set of images; see the table above for the sources.

    Args:
        path: the file or folder.

    Returns:
        The training images, and the test images where the source has some, else None.
        All are of one size, 8-bit grey or RGB, in the order of the files; labels are
        None where the source has none.

    Raises:
        InputError: the source is missing, damaged, empty or of no known form, or its
            images are not alike; the message names file, reason and remedy.

    Examples:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "digits.npz")
        >>> np.savez(path, images=np.zeros((2, 8, 8), np.uint8), labels=[3, 1])
        >>> train, test = read_images(path)
        >>> train.images.shape, train.labels.tolist(), train[0].id, test
        ((2, 8, 8, 1), [3, 1], '0', None)
        >>> path.write_bytes(path.read_bytes()[:100])
        100
        >>> read_images(path)
        Traceback (most recent call last):
            ...
        zlpr_jax._errors.InputError: ...digits.npz: damaged or cut off, ...
        >>> folder.cleanup()
    """
    source = Path(path)
    return matched(*(_read_folder if os.path.isdir(source) else _read_file)(source))


def _read_folder(folder: Path) -> tuple[ImageData, ImageData | None]:
    files, folders = list_folder(folder)
    names = [file.name for file in files]
    idx, cifar, png = (
        [name for name in names if is_kind(name)]
        for is_kind in (is_idx_name, is_cifar_name, is_png_name)
    )
    if bool(idx) + bool(cifar) + bool(png) > 1:
        raise InputError(
            f"{folder}: holds {shorten([*idx[:1], *cifar[:1], *png[:1]])}; expected "
            "IDX files, CIFAR-10 files or PNG images alone: move the others"
        )
    if idx:
        return read_idx_folder(folder)
    if cifar:
        return read_cifar_folder(folder, cifar)
    if png or folders:
        return read_png_folder(folder)
    raise InputError(
        f"{folder}: {f'holds {shorten(names)}' if names else 'is empty'}; expected "
        f"{_KNOWN}: name the file, or the folder that holds them"
    )


def _read_file(path: Path) -> tuple[ImageData, ImageData | None]:
    extension = unpacked_name(path).suffix.lower()
    content = read_bytes(path)
    if extension == ".npz":
        return parse_npz(content, path)
    # A CIFAR-10 file may begin like IDX: an airplane whose corner is black.
    is_idx = content.startswith(b"\0\0\x08\x03") and len(content) % RECORD
    if extension == ".bin" and not is_idx:
        return parse_cifar([content], [path]), None
    if content.startswith(b"\0\0"):
        return read_idx(path, content), None
    raise InputError(
        f"{path}: is of no known form (it begins with {content[:4].hex(' ')}); "
        f"expected {_KNOWN}: name that, or convert it"
    )
