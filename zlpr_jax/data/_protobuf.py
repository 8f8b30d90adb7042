"""The wire format of Protocol Buffers: numbered fields, without their names."""

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    r"""The fields of a message, in the order in which they are stored.

    Args:
        message: the message; those within it are fields of bytes.

    Yields:
        The number of a field and its value, an integer from 0 to 2^64 - 1 or bytes. A
        field that is not there has the value 0, or none.

    Raises:
        ValueError: it is no message.

    Examples:
        >>> list(fields(b"\x08\x96\x01\x12\x02hi"))
        [(1, 150), (2, b'hi')]
    """
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError("a field has the number 0")
        if kind == 0:
            value, at = read_varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = read_varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")
        if size > len(message) - at:
            raise ValueError(
                f"field {number} has {size} bytes, {len(message) - at} are left"
            )
        content = message[at : at + size]
        at += size
        yield number, content if kind == 2 else int.from_bytes(content, "little")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    r"""An integer of 7 bits a byte, the lowest first.

    Args:
        data: holds it.
        at: its first byte.

    Returns:
        The integer, from 0 to 2^64 - 1, and the byte behind it.

    Raises:
        ValueError: it is cut off, or of more bits.

    Examples:
        >>> read_varint(b"\xac\x02\x01", 0)
        (300, 2)
    """
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise ValueError("an integer is cut off")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            if value >= 2**64:
                break
            return value, at
    raise ValueError("an integer has more than 64 bits")


def integer(value: int | bytes) -> int:
    """A field that has to be a signed integer, such as int32, int64 and enum.

    Raises:
        ValueError: it is bytes.

    Examples:
        >>> integer(3), integer(2**64 - 3)
        (3, -3)
    """
    if isinstance(value, bytes):
        raise ValueError("a field is bytes; expected an integer")
    return value - 2**64 if value >= 2**63 else value


def submessage(value: int | bytes) -> bytes:
    """A field that has to be a message or a text.

    Raises:
        ValueError: it is an integer.
    """
    if isinstance(value, int):
        raise ValueError("a field is an integer; expected bytes")
    return value
