"""What an image reader returns: the images of a set in one array, and one of them."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError

# All images of a set lie in memory. A file of a few megabytes can promise more than
# any machine has: what is promised is checked against this first.
MAX_BYTES = 2**34
# Each class has a name, so a label of a billion would be a billion names.
_MAX_LABEL = 2**16 - 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """One image of an `ImageData`.

    Attributes:
        id: the name of its file, relative to the folder; its position, from "0", where
            one file holds many.
        image: uint8 [H, W, C].
        label: its class, an index into `label_names`; None where the set has none.
    """

    id: str
    image: npt.NDArray[np.uint8]
    label: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageData(Sequence[ImageRecord]):
    """Images of one size in memory, a sequence: `data[i]` is image i, a record.

    Attributes:
        images: uint8 [N, H, W, C]; C is 1 (grey) or 3 (red, green, blue).
        labels: int32 [N], indices into `label_names`; None for a set without labels.
        label_names: the names of the classes; empty for a set without labels.
        ids: N names; see `ImageRecord`.
        path: the file or folder it was read from, for messages.

    Examples:
        >>> data = ImageData(
        ...     images=np.zeros((3, 28, 28, 1), np.uint8),
        ...     labels=np.int32([1, 0, 1]),
        ...     label_names=("cat", "dog"),
        ...     ids=("a.png", "b.png", "c.png"),
        ...     path="example",
        ... )
        >>> len(data), data.image_shape, data[2].label, data.take([1, 0]).ids
        (3, (28, 28, 1), 1, ('b.png', 'a.png'))
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32] | None
    label_names: tuple[str, ...]
    ids: tuple[str, ...]
    path: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> "ImageData": ...

    def __getitem__(self, index: int | np.integer | slice) -> "ImageRecord | ImageData":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        row = int(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"image {row} of {len(self)} in {self.path}")
        return ImageRecord(
            id=self.ids[row],
            image=self.images[row],
            label=None if self.labels is None else int(self.labels[row]),
        )

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "ImageData":
        """The images at `indices`, in that order.

        Args:
            indices: positions; a repeated one is repeated.

        Returns:
            The set of those images, under the same names.

        Raises:
            IndexError: an index is not a position.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        return dataclasses.replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            ids=tuple(map(self.ids.__getitem__, rows.tolist())),
        )


def numbered(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer] | None,
    path: Path,
    label_names: tuple[str, ...] | None = None,
) -> ImageData:
    """The set of images and labels that one file holds.

    Args:
        images: uint8 [N, H, W] or [N, H, W, C].
        labels: [N], or None.
        path: the file, for errors.
        label_names: the names of the classes; None for "0", "1", ...

    Returns:
        The set; the ids are "0", "1", ...

    Raises:
        InputError: the labels are not as many as the images, or one is no class.
    """
    if labels is not None:
        if len(labels) != len(images):
            raise InputError(
                f"{path}: {len(labels)} labels for {len(images)} images; expected one "
                "for each: do the files belong together?"
            )
        most = _MAX_LABEL if label_names is None else len(label_names) - 1
        wrong = np.flatnonzero((labels < 0) | (labels > most))
        if len(wrong):
            raise InputError(
                f"{path}: label {labels[wrong[0]]} of image {wrong[0]}; expected a "
                f"class from 0 to {most}: number the classes from 0"
            )
        if label_names is None:
            label_names = tuple(map(str, range(int(labels.max()) + 1)))
        labels = labels.astype(np.int32)
    return ImageData(
        images=np.ascontiguousarray(images if images.ndim == 4 else images[..., None]),
        labels=labels,
        label_names=() if labels is None or label_names is None else label_names,
        ids=tuple(map(str, range(len(images)))),
        path=str(path),
    )


def matched(
    train: ImageData, test: ImageData | None
) -> tuple[ImageData, ImageData | None]:
    """Both parts of a set, under the same label names.

    Args:
        train: the training images.
        test: the test images, or None.

    Returns:
        Both. Names that are numbers go up to the largest of either part.

    Raises:
        InputError: the images are of different shapes.
    """
    if test is None:
        return train, None
    if test.image_shape != train.image_shape:
        raise InputError(
            f"{test.path}: images are {size_name(test.image_shape)}, those of "
            f"{train.path} are {size_name(train.image_shape)}; expected the same: "
            "convert one of them"
        )
    if train.label_names and test.label_names:
        names = max(train.label_names, test.label_names, key=len)
        train = dataclasses.replace(train, label_names=names)
        test = dataclasses.replace(test, label_names=names)
    return train, test


def size_name(shape: Sequence[int]) -> str:
    """The size and kind of an image in words.

    Examples:
        >>> size_name((28, 30, 1))
        '28 x 30 grey'
    """
    height, width, channels = shape
    return f"{height} x {width} {'grey' if channels == 1 else 'RGB'}"


def brief(error: Exception) -> str:
    r"""The message of another library's error, cut to one line.

    Examples:
        >>> brief(ValueError("no\n number")), brief(EOFError())
        ('no number', 'EOFError')
    """
    return " ".join(str(error).split())[:120] or type(error).__name__
