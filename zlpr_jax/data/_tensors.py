"""Files of named tensors: where each one lies, checked before any memory is taken."""

import dataclasses
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax.data._crc32c import crc32c

# NumPy has no arrays of more dimensions, or of more bytes.
_MAX_NDIM = 64
_MAX_BYTES = 2**63


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """What a file says of one tensor; `locate` makes it.

    Attributes:
        shape: its sizes.
        dtype: of its numbers, as they are stored.
        file: the file that holds them, in C order.
        offset: the first byte there.
        crc32c: the checksum of its bytes; None if the file has none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path
    offset: int
    crc32c: int | None

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TensorFile:
    """Named tensors in one file or several; none is read before it is asked for.

    Attributes:
        path: the file that lists them, for messages.
        tensors: what is known of each, by name.
    """

    path: Path
    tensors: Mapping[str, TensorSpec]

    def read(self, name: str) -> npt.NDArray[Any]:
        """Read one tensor.

        Args:
            name: one of `tensors`.

        Returns:
            A new array.

        Raises:
            InputError: there is no tensor of this name, its checksum is another one, or
                its file cannot be read.
        """
        spec = self.tensors.get(name)
        if spec is None:
            raise InputError(f"{self.path}: has no tensor {quoted(name)}")
        content = read_range(spec.file, spec.offset, spec.size)
        if spec.crc32c is not None and spec.crc32c != (found := crc32c(content)):
            raise InputError(
                f"{spec.file}: tensor {quoted(name)} has the checksum {found:08x}; "
                f"{self.path.name} says {spec.crc32c:08x}: damaged, copy it again"
            )
        # NumPy would keep such bytes, and count a 2 as neither true nor false.
        if spec.dtype == np.bool_ and (content > 1).any():
            raise InputError(
                f"{spec.file}: tensor {quoted(name)} is bool and has bytes other than "
                "0 and 1: damaged, copy it again"
            )
        return content.view(spec.dtype).reshape(spec.shape)


def locate(
    file: Path,
    name: str,
    *,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    offset: int,
    size: int,
    length: int,
    crc32c: int | None = None,
) -> TensorSpec:
    """Check what a file says of one tensor.

    Args:
        file: the file that holds its numbers.
        name: its name, for messages.
        shape: its sizes, as the file says.
        dtype: of its numbers.
        offset: its first byte in `file`, as the file says; less than 2^64 in absolute
            value, as are `size` and the elements of `shape`.
        size: its bytes, as the file says.
        length: the bytes that `file` has.
        crc32c: the checksum of its bytes, if there is one.

    Returns:
        The tensor's description, which is true of the file.

    Raises:
        InputError: the shape is none, or needs other than `size` bytes, or they do not
            lie in the file.
    """
    what = f"{file}: tensor {quoted(name)}"
    if len(shape) > _MAX_NDIM:
        raise InputError(
            f"{what} has {len(shape)} dimensions; expected at most {_MAX_NDIM}: "
            "damaged, copy it again"
        )
    # Without the zeros: NumPy refuses [0, 2**62, 2**62] too.
    largest = math.prod(max(one, 1) for one in shape) * dtype.itemsize
    if min(shape, default=0) < 0 or largest >= _MAX_BYTES:
        raise InputError(
            f"{what} has the shape {list(shape)}; expected sizes from 0, and less than "
            "2^63 bytes: damaged, copy it again"
        )
    spec = TensorSpec(shape=shape, dtype=dtype, file=file, offset=offset, crc32c=crc32c)
    if spec.size != size:
        raise InputError(
            f"{what} is {dtype} {list(shape)}, {spec.size} bytes; its place in the "
            f"file has {size}: damaged, copy it again"
        )
    if not 0 <= offset <= offset + size <= length:
        raise InputError(
            f"{what} lies from byte {offset} to byte {offset + size}; the file has "
            f"{length} bytes: cut off or damaged, copy it again"
        )
    return spec


def file_length(path: Path, what: str) -> int:
    """The bytes of a file.

    Args:
        path: the file.
        what: what it should be and what to do if it is not there, for the message.

    Raises:
        InputError: it is missing, or no regular file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(
            f"{path}: cannot be read ({error}): check the path and its permissions"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is no regular file; expected {what}")
    return status.st_size


def read_range(path: Path, offset: int, size: int) -> npt.NDArray[np.uint8]:
    """Some bytes of a file, and no others.

    Args:
        path: the file.
        offset: the first of them.
        size: how many.

    Returns:
        uint8 [size].

    Raises:
        InputError: the file has fewer, cannot be read, or they do not fit into memory.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            # It may be another file than when its length was asked for.
            length = os.fstat(stream.fileno()).st_size
            if not 0 <= offset <= offset + size <= length:
                raise EOFError(f"bytes {offset} to {offset + size} of {length}")
            content = np.empty(size, np.uint8)
            stream.seek(offset)
            done = 0
            while done < size:  # one call reads 2 GB at most
                count = stream.readinto(content.data[done:])
                if not count:
                    raise EOFError(f"{done} bytes of {size}")
                done += count
    except EOFError as error:
        raise InputError(f"{path}: cut off ({error}): copy it again") from None
    except MemoryError:
        raise InputError(
            f"{path}: {size} bytes do not fit into memory: use a larger machine"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error}): check the path and its permissions"
        ) from None
    return content


def quoted(name: object) -> str:
    r"""What a file says, such as a name, for a message: in one line, and cut.

    Examples:
        >>> print(quoted("two\nlines"), quoted("x" * 1000)[80:])
        'two\nlines' xxxxxxxxxxxxxxxxxxxx...
    """
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:100]}..."
