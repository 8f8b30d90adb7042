"""Files on disk as text: plain, gzip or bzip2, in UTF-8."""

import bz2
import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePath

from zlpr_jax._errors import InputError

_PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def fail(path: str, line: int, reason: str) -> InputError:
    """The error for one line of a file; the caller raises it."""
    return InputError(f"{path}:{line}: {reason}")


def shorten(names: Iterable[object], limit: int = 8) -> str:
    """A list of names for a message, cut to `limit` of them."""
    shown = [str(name) for name in names]
    rest = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + rest


def unpacked_name(path: PurePath) -> PurePath:
    """The file's name without .gz or .bz2.

    Examples:
        >>> unpacked_name(PurePath("a/train.arff.gz")).name
        'train.arff'
    """
    return path.with_suffix("") if path.suffix.lower() in _PACKED else path


def read_bytes(path: Path) -> bytes:
    """The contents of a file, unpacked.

    Args:
        path: the file; .gz and .bz2 are unpacked.

    Returns:
        Its bytes.

    Raises:
        InputError: it is missing, a directory, unreadable, empty or cut off.
    """
    if os.path.isdir(path):  # Path.is_dir raises if the name is too long
        raise InputError(
            f"{path}: is a directory; expected a data file: name one in it"
        )
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; expected a data file: check the path"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(
            f"{path}: cannot be read ({error}): check the path and its permissions"
        ) from None
    unpack = _PACKED.get(path.suffix.lower())
    if unpack is not None:
        try:
            content = unpack(content)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(
                f"{path}: damaged or cut off, expected a whole {path.suffix} file "
                f"({error}): copy it again"
            ) from None
    if not content.strip():
        raise InputError(f"{path}: is empty; expected some content: check the path")
    return content


def read_text(path: Path) -> str:
    """The contents of a UTF-8 file, unpacked, without a byte-order mark.

    Args:
        path: the file; .gz and .bz2 are unpacked.

    Returns:
        Its text, line ends as they are.

    Raises:
        InputError: as `read_bytes`, or it is not UTF-8.
    """
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise fail(
            str(path),
            line,
            f"byte 0x{content[error.start]:02x} is not UTF-8: convert the file, for "
            "example with iconv -f latin1 -t utf-8",
        ) from None


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, split at "\n" and "\r\n" only.

    `str.splitlines` would also split at form feeds and at U+2028, which occur in text.

    Examples:
        >>> lines_of("a\r\nb\x0cc\n")
        ['a', 'b\x0cc']
    """
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    return lines
