"""A run folder that appears whole or not at all."""

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.training._checkpoint import save_tree


class RunFolder:
    """Files are written beside the final place; leaving the block moves them there.

    An exception removes what was written.

    Attributes:
        path: Where files are written now.
        final: Where they will be.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "run"
        >>> with RunFolder(target) as folder:
        ...     folder.write_json("config.json", {"seeds": 5})
        >>> sorted(path.name for path in target.iterdir())
        ['config.json']
    """

    def __init__(self, final: Path):
        if final.exists():
            raise InputError(
                f"{final}: the run folder exists: name another one with --run, "
                "or remove it."
            )
        self.final = final
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            prefix = f".{final.name}-"
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
        except OSError as error:
            raise InputError(
                f"{final}: the run folder cannot be made: {error}"
            ) from None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.path)
            return
        self.path.chmod(0o755)
        self.path.rename(self.final)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as an indented JSON file."""
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        (self.path / name).write_text(text + "\n", encoding="utf-8")

    def append_json(self, name: str, value: Any) -> None:
        """Append `value` as one line of a JSONL file."""
        with self.open(name, "a") as stream:
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")

    def write_tree(self, name: str, tree: PyTree) -> None:
        """Write a tree of arrays as safetensors."""
        save_tree(self.path / name, tree)

    def open(self, name: str, mode: Literal["w", "a"] = "w") -> io.TextIOWrapper:
        """Open a text file of the folder, to write or append."""
        return (self.path / name).open(mode, encoding="utf-8")


def default_run(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2, runs/NAME-3, ... that does not exist."""
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        InputError: If it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not readable: {error}; expected a run folder written by "
            "`zlpr-jax train`."
        ) from None
