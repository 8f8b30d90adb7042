"""The folder of a run: there from the start, complete once it has results."""

import fcntl
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.training._parameters import save_tree

# What a run was started with; it is never written again.
CONFIG = "config.json"
# Written last: a run folder that has it is complete.
RESULTS = "results.json"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """A run folder that this process alone writes to, until the block is left.

    Every file appears whole or not at all. The lock is one on config.json and ends with
    the process, however that ends. An error before there is a checkpoint removes the
    folder that was made.

    Attributes:
        path: The folder.

    Examples:
        >>> target = Path(tempfile.mkdtemp()) / "run"
        >>> with RunFolder.make(target, {"config.json": {"seeds": 5}}) as folder:
        ...     folder.write_json("results.json", {"micro_f1": 0.6})
        >>> sorted(path.name for path in target.iterdir())
        ['config.json', 'results.json']
    """

    def __init__(self, path: Path, lock: int, *, made: bool):
        self.path = path
        self._lock = lock
        self._made = made

    @classmethod
    def make(cls, path: Path, files: Mapping[str, Any]) -> "RunFolder":
        """Make a folder that holds `files`: JSON by name, "config.json" among them.

        Raises:
            InputError: If it exists, or cannot be made.
        """
        if os.path.exists(path):  # Path.exists raises if the name is too long
            raise _exists(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # made beside its place, so that it appears whole
            new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        except OSError as error:
            raise InputError(
                f"{path}: the run folder cannot be made: {error}"
            ) from None
        try:
            new.chmod(0o755)
            for name, value in files.items():
                (new / name).write_text(_json(value), encoding="utf-8")
            lock = _lock(new)
            new.rename(path)
        except OSError as error:
            shutil.rmtree(new)
            if path.exists():
                raise _exists(path) from None
            raise InputError(
                f"{path}: the run folder cannot be made: {error}"
            ) from None
        return cls(path, lock, made=True)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a folder to go on with.

        Raises:
            InputError: If it is none, or another process has it open or completed it.
        """
        lock = _lock(path)
        if is_complete(path):
            os.close(lock)
            raise InputError(f"{path}: the run is complete.")
        return cls(path, lock, made=False)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None and self._made:
            saved = any(path.is_file() for path in (self.path / CHECKPOINTS).rglob("*"))
            if not saved:
                shutil.rmtree(self.path)
        os.close(self._lock)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write to; it becomes the file `name` at the end of the block.

        Raises:
            InputError: If it cannot be written.
        """
        new = self.path / f".new-{name}"
        try:
            yield new
            with new.open("rb") as stream:
                os.fsync(stream.fileno())
            new.replace(self.path / name)
        except OSError as error:
            raise InputError(
                f"{self.path / name}: cannot be written: {error}"
            ) from None
        finally:
            new.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as an indented JSON file."""
        with self.writing(name) as path:
            path.write_text(_json(value), encoding="utf-8")

    def write_tree(self, name: str, tree: PyTree) -> None:
        """Write a tree of arrays as safetensors."""
        with self.writing(name) as path:
            save_tree(path, tree)


def default_run(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2, runs/NAME-3, ... that does not exist."""
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def is_complete(path: Path) -> bool:
    """Whether a run folder has its results."""
    return (path / RESULTS).exists()


def resume_command(path: Path) -> str:
    """What to type to go on with a run.

    Examples:
        >>> resume_command(Path("runs/yeast"))
        'zlpr-jax resume runs/yeast'
    """
    return f"zlpr-jax resume {shlex.quote(str(path))}"


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        InputError: If it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not readable: {error}; expected a run folder written by "
            "`zlpr-jax train`."
        ) from None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _exists(path: Path) -> InputError:
    other = "name another one with --run"
    if (path / CONFIG).exists() and not is_complete(path):
        command = resume_command(path)
        return InputError(
            f"{path}: the run folder exists and its run is not complete: go on with "
            f"`{command}`, or {other}."
        )
    return InputError(f"{path}: the run folder exists: {other}, or remove it.")


def _lock(path: Path) -> int:
    """Lock a run folder for as long as the file descriptor returned is open."""
    try:
        lock = os.open(path / CONFIG, os.O_RDWR)
    except OSError as error:
        raise InputError(f"{path}: not a run folder to go on with: {error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(
            f"{path}: another process trains in this run folder: end that one first."
        ) from None
    except OSError:
        # a file system without locks, such as some mounted cloud storage
        pass
    return lock
