"""What was written to a folder, so that what is read can be compared with it."""

import hashlib
import io
import json
import os
from pathlib import Path

DIGESTS = "digests.json"
# Read twice in no time, however large the run is: these are always compared whole.
_SMALL = 1 << 16


class Unfinished(Exception):
    """The folder has no digests: its writing never came to an end."""


class Damaged(Exception):
    """A file is not as it was written. The message names the first and says how."""


def write_digests(folder: Path, *, hashed: bool = True) -> None:
    """Note the path, size and SHA-256 of every file below `folder`.

    They are written to `digests.json`, which appears whole or not at all, and after
    everything that it vouches for has reached the disk.

    Args:
        folder: What to describe. Nothing may write there any more.
        hashed: Whether to read files over 64 KiB too; else only their sizes are noted.
    """
    temporary = folder / f".{DIGESTS}"
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path in (temporary, folder / DIGESTS):
            continue
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            size = os.fstat(stream.fileno()).st_size
            digest = _digest(stream) if hashed or size <= _SMALL else None
        files[path.relative_to(folder).as_posix()] = [size, digest]
    with temporary.open("wb") as stream:
        stream.write(_render(files))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / DIGESTS)
    sync_folder(folder)


def check_digests(folder: Path, *, hashed: bool = True) -> None:
    """Compare the files below `folder` with what `write_digests` noted of them.

    A file that was not there then is no damage: nothing reads it.

    Args:
        folder: What to check.
        hashed: Whether to read files over 64 KiB too; else their presence and size is
            enough.

    Raises:
        Unfinished: If there are no digests.
        Damaged: If a file, or the digests themselves, are not as they were written.
    """
    for name, (size, digest) in _read(folder / DIGESTS).items():
        try:
            with (folder / name).open("rb") as stream:
                found = os.fstat(stream.fileno()).st_size
                if found != size:
                    way = "shorter" if found < size else "longer"
                    raise Damaged(
                        f"{name} is {way} than when it was written "
                        f"({found} bytes, not {size})"
                    )
                known = digest is not None and (hashed or size <= _SMALL)
                if known and _digest(stream) != digest:
                    raise Damaged(f"{name} differs from what was written (SHA-256)")
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from None


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(stream: io.BufferedReader) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _render(files: dict[str, list]) -> bytes:
    """The one text for these entries, which also holds its own digest."""
    own = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return (json.dumps({"files": files, "sha256": own}, indent=1) + "\n").encode()


def _read(path: Path) -> dict[str, list]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise Unfinished from None
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from None
    try:
        files = json.loads(text)["files"]
        if _render(files) == text:
            return files
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{path.name} differs from what was written")
