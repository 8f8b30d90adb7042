"""CRC-32C, the checksum of TensorFlow's checkpoints, at the speed of NumPy's XOR."""

import functools

import numpy as np
import numpy.typing as npt

# x^6777 + x^484 + x^100 + 1 is a multiple of the checksum's polynomial, and stays one
# with x^8s in place of x: s bytes may be removed anywhere if they are XORed into those
# that lie (6777 - 484) s, (6777 - 100) s and 6777 s bytes behind them. No multiple of
# this size has fewer terms, none of four terms is of a degree below 5275, and none
# below 9000 has so wide a gap below its first term: what can be removed at once.
_DEGREE, _SECOND, _THIRD = 6777, 484, 100
# The window of the first of them is 54 kB and stays in the cache.
_SCALES = (8, 1)
_REFLECTED = 0x82F63B78
# Takes a register of zeros to ones, in which the checksum begins.
_START = bytes.fromhex("54641f64")


def crc32c(data: npt.NDArray[np.uint8]) -> int:
    """The checksum of bytes.

    The remainder of the bytes, as a polynomial over two elements, modulo 0x11EDC6F41:
    first modulo a sparse multiple of it, then as the sum of x^k for each bit set.

    Args:
        data: uint8 [N], contiguous.

    Returns:
        The CRC-32C, from 0 to 2^32 - 1.

    Examples:
        >>> hex(crc32c(np.frombuffer(b"123456789", np.uint8)))
        '0xe3069283'

    References:
        Castagnoli, Bräuer, Herrmann: Optimization of Cyclic Redundancy-Check Codes with
        24 and 32 Parity Bits, 1993; RFC 3720, appendix B.4.
    """
    window = _DEGREE * _SCALES[0]
    start = np.frombuffer(_START, np.uint8)
    head = np.concatenate([start, data[: window - len(start)]])
    folded = _fold(head, data[window - len(start) :], _SCALES[0])
    for scale in _SCALES[1:]:
        window = _DEGREE * scale
        folded = _fold(folded[:window], folded[window:], scale)
    bits = np.unpackbits(folded, bitorder="little")
    powers = _powers()[len(_powers()) - len(bits) :]
    return int(np.bitwise_xor.reduce(powers * bits)) ^ 0xFFFFFFFF


def unmasked(crc: int) -> int:
    """The checksum that LevelDB and TensorFlow store rotated, with a constant added.

    Examples:
        >>> hex(unmasked(0xA282EAD8))
        '0x0'
    """
    rotated = (crc - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _fold(
    window: npt.NDArray[np.uint8], rest: npt.NDArray[np.uint8], scale: int
) -> npt.NDArray[np.uint8]:
    """A short message with the checksum of window + rest.

    `window` is _DEGREE * scale bytes if there is a rest.
    """
    second, third = _SECOND * scale, _THIRD * scale
    gap = _DEGREE * scale - second
    end = len(rest) - len(rest) % gap
    other = np.empty_like(window)
    for at in range(0, end, gap):
        removed = window[:gap]
        other[:second] = window[gap:]
        np.bitwise_xor(rest[at : at + gap], removed, out=other[second:])
        other[:gap] ^= removed
        other[second - third : second - third + gap] ^= removed
        window, other = other, window
    return np.concatenate([window, rest[end:]])


@functools.cache
def _powers() -> npt.NDArray[np.uint32]:
    """The remainders of x^k down to k = 32, one for each bit that a fold can leave."""
    powers, power = [], 1
    for _ in range(8 * (2 * _DEGREE - _SECOND)):
        power = power >> 1 ^ (_REFLECTED if power & 1 else 0)
        powers.append(power)
    return np.array(powers[::-1], np.uint32)
