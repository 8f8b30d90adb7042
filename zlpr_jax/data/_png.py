"""Folders of PNG images: flat, with a subfolder for each class, or train/ and test/."""

import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax.data._images import MAX_BYTES, ImageData, brief, size_name
from zlpr_jax.data._open import read_bytes, shorten

_OTHERS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33
# Below the size from which Pillow warns of a bomb.
_MAX_PIXELS = 2**24
# Colour type and bits of a channel, of the header, to channels.
_CHANNELS = {(0, 8): 1, (2, 8): 3}
_MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files and the subfolders of a folder, sorted by name, without hidden ones.

    Args:
        folder: the folder.

    Returns:
        Files, subfolders.

    Raises:
        InputError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as scan:
            found = sorted((entry.name, entry.is_dir()) for entry in scan)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error}): check its permissions"
        ) from None
    shown = [(folder / name, is_dir) for name, is_dir in found if name[0] != "."]
    return (
        [path for path, is_dir in shown if not is_dir],
        [path for path, is_dir in shown if is_dir],
    )


def is_png_name(name: str) -> bool:
    """Whether a file has the name of an image, which then must be a PNG.

    Examples:
        >>> is_png_name("a.PNG"), is_png_name("a.jpg"), is_png_name("notes.txt")
        (True, True, False)
    """
    return name.lower().endswith((".png", *_OTHERS))


def read_png_folder(root: Path) -> tuple[ImageData, ImageData | None]:
    """Read a folder of PNG images.

    Args:
        root: holds images; or a subfolder for each class, which holds them; or train
            and perhaps test, subfolders of either form.

    Returns:
        The images by file name, and those of test or None. Class names are those of
        the subfolders of train, sorted; file names relative to `root` are the ids.

    Raises:
        InputError: the folder is not of that form, an image is not a whole 8-bit grey
            or RGB one, or the images differ in size or kind.
    """
    files, folders = list_folder(root)
    names = [folder.name for folder in folders]
    if not {"train", "test"} & set(names):
        return _read_set(root, root, ()), None
    images = [file.name for file in files if is_png_name(file.name)]
    if images or not {"train"} <= set(names) <= {"train", "test"}:
        raise InputError(
            f"{root}: holds {shorten([*(f'{name}/' for name in names), *images])}; "
            "expected train/ [and test/] alone: move the others, or name one folder"
        )
    train = _read_set(root / "train", root, ())
    if "test" not in names:
        return train, None
    return train, _read_set(root / "test", root, train.label_names)


def _read_set(folder: Path, root: Path, label_names: tuple[str, ...]) -> ImageData:
    """The images of a folder; its classes are among `label_names`, if that has any."""
    files, classes = _files_of(folder)
    labels = None
    if classes:
        label_names = label_names or tuple(classes)
        new = sorted(set(classes) - set(label_names))
        if new:
            raise InputError(
                f"{folder / new[0]}: is no class of the training images, which are "
                f"{shorten(label_names)}: move it"
            )
        index = {name: i for i, name in enumerate(label_names)}
        labels = np.array([index[file.parent.name] for file in files], np.int32)
    return ImageData(
        images=_read_files(files),
        labels=labels,
        label_names=label_names if classes else (),
        ids=tuple(file.relative_to(root).as_posix() for file in files),
        path=str(folder),
    )


def _files_of(folder: Path) -> tuple[list[Path], list[str]]:
    """The images of a folder and its subfolders, and the names of the subfolders."""
    files, subfolders = list_folder(folder)
    images = [file for file in files if is_png_name(file.name)]
    if images and subfolders:
        raise InputError(
            f"{folder}: holds images ({images[0].name}, ...) and subfolders "
            f"({subfolders[0].name}, ...); expected images alone, or a subfolder for "
            "each class: move one of them"
        )
    for subfolder in subfolders:
        inner, deeper = list_folder(subfolder)
        found = [file for file in inner if is_png_name(file.name)]
        if not found or deeper:
            raise InputError(
                f"{subfolder}: holds {len(found)} images and {len(deeper)} subfolders; "
                "expected the PNG images of one class: move or remove it"
            )
        images += found
    if not images:
        raise InputError(f"{folder}: has no PNG image; expected at least one")
    return images, [subfolder.name for subfolder in subfolders]


def _read_files(files: Sequence[Path]) -> npt.NDArray[np.uint8]:
    pillow = _import_pillow(files[0])
    shape = _shape(read_bytes(files[0]), files[0])
    if len(files) * math.prod(shape) > MAX_BYTES:
        raise InputError(
            f"{files[0].parent}: {len(files)} images of {size_name(shape)} are more "
            f"than {MAX_BYTES} bytes, and lie in memory: make them smaller or fewer"
        )
    images = np.empty((len(files), *shape), np.uint8)
    for i, file in enumerate(files):
        content = read_bytes(file)
        # From the header, before anything is allocated for it.
        other = _shape(content, file)
        if other != shape:
            raise InputError(
                f"{file}: is {size_name(other)}, the first image, {files[0]}, is "
                f"{size_name(shape)}; expected all alike: resize or convert them"
            )
        images[i] = _decode(content, file, shape, pillow)
    return images


def _import_pillow(file: Path) -> ModuleType:
    try:
        # Lazily: other formats do without it.
        from PIL import Image
    except ImportError:
        raise InputError(
            f"{file}: PNG images are read by the package pillow, which is not "
            'installed: pip install "zlpr-jax[data]"'
        ) from None
    return Image


def _shape(content: bytes, file: Path) -> tuple[int, int, int]:
    """Height, width and channels of a whole PNG, from its header."""
    if not content.startswith(_SIGNATURE):
        raise InputError(
            f"{file}: is no PNG image (it begins with {content[:4].hex(' ')}); "
            "expected one: convert or remove it"
        )
    kinds = _chunks(content, file)
    # Of several headers Pillow takes the last.
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1 or len(content) < _HEADER_END:
        raise _damaged(file, "it has no header, or several")
    width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
    channels = _CHANNELS.get((colour, bits))
    if channels is None:
        raise InputError(
            f"{file}: is {bits}-bit {_MODES.get(colour, f'of colour type {colour}')}; "
            "expected 8-bit grey or RGB without alpha: convert it"
        )
    if {b"tRNS", b"acTL"} & set(kinds):
        raise InputError(
            f"{file}: has a transparent colour or several frames; expected one opaque "
            "image: convert it"
        )
    if not 0 < width * height <= _MAX_PIXELS:
        raise InputError(
            f"{file}: its header promises {height} x {width} pixels; expected 1 to "
            f"{_MAX_PIXELS} in all: resize it"
        )
    return height, width, channels


def _chunks(content: bytes, file: Path) -> list[bytes]:
    """The kinds of the chunks; Pillow skips the checksums of those with the pixels."""
    kinds = [b""]
    start = len(_SIGNATURE)
    while kinds[-1] != b"IEND":
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            raise _damaged(file, f"cut off after {len(content)} bytes")
        checksum = int.from_bytes(content[end - 4 : end], "big")
        if zlib.crc32(content[start + 4 : end - 4]) != checksum:
            raise _damaged(file, f"the checksum at byte {end - 4} is wrong")
        kinds.append(content[start + 4 : start + 8])
        start = end
    return kinds[1:]


def _decode(
    content: bytes, file: Path, shape: tuple[int, int, int], pillow: ModuleType
) -> npt.NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pillow.open(io.BytesIO(content), formats=("PNG",)) as image:
                image.load()
                return np.asarray(image).reshape(shape)
    except pillow.UnidentifiedImageError:  # its message names a Python object
        raise _damaged(file, "its header is wrong") from None
    except Exception as error:  # a damaged image fails in many ways
        raise _damaged(file, brief(error)) from None


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(
        f"{file}: damaged or cut off, expected a whole PNG image ({reason}): copy it "
        "again or remove it"
    )
