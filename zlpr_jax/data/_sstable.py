"""Sorted string tables: LevelDB's files of keys and values, which TensorFlow uses too.

A footer of 48 bytes holds where the index block is; its values say where the blocks are
that hold the pairs. Each block is followed by a byte, how it is compressed, and the
CRC-32C of both.
"""

from collections.abc import Iterator
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.data._crc32c import crc32c, unmasked
from zlpr_jax.data._protobuf import read_varint
from zlpr_jax.data._tensors import file_length, read_range

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_TRAILER = 5
# A key may begin as the one before it, which is then not stored again, except in every
# 16th. So a block of true keys cannot unpack to more than 16 times its size, while one
# made for it could to its square.
_MAX_GROWTH = 64


def read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Read a table block by block.

    Args:
        path: the file.

    Yields:
        Keys and values, sorted by key, no key twice.

    Raises:
        InputError: the file is missing, no table, compressed or damaged.
    """
    length = file_length(path, "the index of a TensorFlow checkpoint: copy it there")
    footer = read_range(path, max(0, length - _FOOTER), min(_FOOTER, length)).tobytes()
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise InputError(
            f"{path}: ends with the bytes {footer[-8:].hex(' ')}; expected those of a "
            f"table, {_MAGIC.hex(' ')}: cut off, or another file? copy it again"
        )
    try:
        _, at = _handle(footer, 0)  # of the block of settings, which has none
        (offset, size), _ = _handle(footer, at)
    except ValueError as error:
        raise _damaged(path, length - _FOOTER, str(error)) from None
    end, last = 0, None
    for _, place in _block(path, offset, size, length):
        try:
            (first, size), _ = _handle(place, 0)
        except ValueError as error:
            raise _damaged(path, offset, str(error)) from None
        if first < end:
            raise _damaged(path, offset, "it lists blocks that overlap")
        end = first + size
        for key, value in _block(path, first, size, length):
            if last is not None and key <= last:
                raise _damaged(path, first, "its keys are not in order")
            last = key
            yield key, value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block is: its first byte and its size."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _block(
    path: Path, offset: int, size: int, length: int
) -> Iterator[tuple[bytes, bytes]]:
    if offset + size + _TRAILER > length - _FOOTER:
        raise InputError(
            f"{path}: the block of {size} bytes at byte {offset} reaches behind the "
            f"end of the file, which has {length}: cut off or damaged, copy it again"
        )
    stored = read_range(path, offset, size + _TRAILER)
    expected = unmasked(int.from_bytes(stored[size + 1 :].tobytes(), "little"))
    found = crc32c(stored[: size + 1])
    if found != expected:
        reason = f"its checksum is {found:08x}, the file says {expected:08x}"
        raise _damaged(path, offset, reason)
    if stored[size]:
        kind = {1: "Snappy"}.get(int(stored[size]), f"the method {stored[size]}")
        raise InputError(
            f"{path}: the block at byte {offset} is compressed with {kind}; expected "
            "none, as TensorFlow writes checkpoints: save it again with TensorFlow"
        )
    try:
        yield from _pairs(stored[:size].tobytes())
    except ValueError as error:
        raise _damaged(path, offset, str(error)) from None


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a block, without the list of whole keys at its end."""
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (count + 1)
    if end < 0:
        raise ValueError("it is shorter than its list of keys")
    at, key, total = 0, b"", 0
    while at < end:
        shared, at = read_varint(block, at)
        rest, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or rest + size > end - at:
            raise ValueError("a key or value reaches behind its end")
        total += shared + rest
        if total > _MAX_GROWTH * len(block):
            raise ValueError(f"its keys have over {_MAX_GROWTH} times its size")
        key = key[:shared] + block[at : at + rest]
        at += rest
        yield key, block[at : at + size]
        at += size


def _damaged(path: Path, offset: int, reason: str) -> InputError:
    return InputError(
        f"{path}: the block at byte {offset} is damaged ({reason}): copy it again"
    )
