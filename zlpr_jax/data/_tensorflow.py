"""TensorFlow's checkpoints of version 2, called tensor bundles, without TensorFlow.

A table, name.index, holds a message for each tensor, which says where its numbers are
in name.data-00000-of-00001 and so on. The messages are BundleHeaderProto (under the
empty key) and BundleEntryProto of tensorflow/core/protobuf/tensor_bundle.proto.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax.data._crc32c import unmasked
from zlpr_jax.data._protobuf import fields, integer, submessage
from zlpr_jax.data._sstable import read_table
from zlpr_jax.data._tensors import TensorFile, TensorSpec, file_length, locate, quoted

# The numbers of tensorflow/core/framework/types.proto.
_DTYPES: dict[int, Any] = {
    **{1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16},
    **{6: np.int8, 8: np.complex64, 9: np.int64, 10: np.bool_},
    **{14: ml_dtypes.bfloat16, 17: np.uint16, 18: np.complex128, 19: np.float16},
    **{22: np.uint32, 23: np.uint64},
}
_DTYPES = {number: np.dtype(dtype) for number, dtype in _DTYPES.items()}
# Strings, resources and variants: what TensorFlow keeps of a program, not of a model.
_SKIPPED = (7, 20, 21)
# The version of the format that this file knows.
_VERSION = 1


@dataclasses.dataclass(kw_only=True)
class _Entry:
    """A BundleEntryProto."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = 0
    slices: int = 0


def open_tensorflow(prefix: Path) -> TensorFile:
    """Open a TensorFlow checkpoint.

    Args:
        prefix: its name: the files are prefix.index and prefix.data-00000-of-00001, or
            more of the latter.

    Returns:
        All tensors but those of strings, by the names that they have in the file.

    Raises:
        InputError: a file is missing or damaged, or a tensor is stored in slices or of
            an unknown dtype.
    """
    index = Path(f"{prefix}.index")
    lengths: dict[Path, int] = {}
    tensors: dict[str, TensorSpec] = {}
    shards: int | None = None
    for key, value in read_table(index):
        if shards is None:
            shards = _read_header(index, key, value)
            continue
        if key.startswith(b"\0"):  # a slice, which the whole tensor's entry lists
            continue
        name = _name(index, key)
        try:
            entry = _parse_entry(value)
        except ValueError as error:
            raise InputError(
                f"{index}: the entry of tensor {quoted(name)} is damaged ({error}): "
                "copy it again"
            ) from None
        if entry.dtype in _SKIPPED:
            continue
        _check_supported(index, name, entry, shards)
        file = Path(f"{prefix}.data-{entry.shard:05d}-of-{shards:05d}")
        if file not in lengths:
            what = f"a file of {index.name}, tensor {quoted(name)} is there: copy it"
            lengths[file] = file_length(file, what)
        tensors[name] = locate(
            file,
            name,
            shape=entry.shape,
            dtype=_DTYPES[entry.dtype],
            offset=entry.offset,
            size=entry.size,
            length=lengths[file],
            crc32c=unmasked(entry.crc32c),
        )
    if shards is None:
        raise InputError(f"{index}: is empty; expected a checkpoint: copy it again")
    return TensorFile(path=index, tensors=tensors)


def _read_header(index: Path, key: bytes, value: bytes) -> int:
    """The number of data files."""
    shards = endianness = needed = 0
    try:
        if key:
            raise ValueError(f"it begins with {quoted(key)}")
        for number, field in fields(value):
            if number == 1:
                shards = integer(field)
            elif number == 2:
                endianness = integer(field)
            elif number == 3:
                for inner, version in fields(submessage(field)):
                    needed = integer(version) if inner == 2 else needed
        if not 0 < shards < 2**31:
            raise ValueError(f"it has {shards} data files")
    except ValueError as error:
        raise InputError(
            f"{index}: is no checkpoint ({error}); expected a TensorFlow checkpoint of "
            "version 2: is it another table?"
        ) from None
    if endianness or needed > _VERSION:
        what = f"version {needed}" if needed > _VERSION else "big-endian numbers"
        raise InputError(
            f"{index}: is a checkpoint of {what}; expected little-endian numbers and "
            f"version {_VERSION}: save it again on another machine or with another "
            "TensorFlow"
        )
    return shards


def _name(index: Path, key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise InputError(
            f"{index}: the name {quoted(key)} is not UTF-8: damaged, copy it again"
        ) from None


def _parse_entry(message: bytes) -> _Entry:
    entry = _Entry()
    for number, field in fields(message):
        match number:
            case 1:
                entry.dtype = integer(field)
            case 2:
                entry.shape += tuple(_sizes(submessage(field)))
            case 3:
                entry.shard = integer(field)
            case 4:
                entry.offset = integer(field)
            case 5:
                entry.size = integer(field)
            case 6:
                entry.crc32c = integer(field)
            case 7:
                entry.slices += 1
            case _:
                raise ValueError(f"it has the unknown field {number}")
    return entry


def _sizes(message: bytes) -> Iterator[int]:
    """The sizes of a TensorShapeProto."""
    for number, field in fields(message):
        if number == 3 and integer(field):
            raise ValueError("its number of dimensions is unknown")
        if number == 2:
            size = 0
            for inner, value in fields(submessage(field)):
                size = integer(value) if inner == 1 else size
            yield size


def _check_supported(index: Path, name: str, entry: _Entry, shards: int) -> None:
    what = f"{index}: tensor {quoted(name)}"
    if entry.slices:
        raise InputError(
            f"{what} is stored in {entry.slices} slices, as a partitioned variable; "
            "expected it whole: save it without a partitioner"
        )
    if entry.dtype not in _DTYPES:
        raise InputError(
            f"{what} has TensorFlow's dtype {entry.dtype}; expected one of "
            f"{', '.join(str(dtype) for dtype in _DTYPES.values())}: convert it"
        )
    if not 0 <= entry.shard < shards:
        raise InputError(
            f"{what} is in data file {entry.shard} of {shards}, counted from 0: "
            "damaged, copy it again"
        )
