"""A folder of checkpoints: which are whole, which to keep. Standard library only."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from zlpr_jax._errors import InputError
from zlpr_jax.training._digests import (
    DIGESTS,
    Damaged,
    Unfinished,
    check_digests,
    sync_folder,
    write_digests,
)

_META = "meta.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where and how often to save.

    Attributes:
        folder: Holds one folder per saved step. With several processes all must see it.
        every: Steps between saves.
        keep_last: Newest checkpoints to keep.
        keep_best: Besides, those of the best headline to keep, among the steps that
            were evaluated.
        verify: Whether to note and compare the SHA-256 of every file. Off, which is for
            very large runs, files over 64 KiB are compared by presence and size only.
    """

    folder: Path
    every: int = 500
    keep_last: int = 2
    keep_best: int = 1
    verify: bool = True

    def __post_init__(self):
        for name, least in (("every", 1), ("keep_last", 1), ("keep_best", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name} must be >= {least}, got {value}.")


class StepFolders:
    """The folders of the saved steps, which are named by their number.

    A step is finished once it has digests, and gone once it has another name.

    Args:
        config: Where they are and which to keep.
        direction: Whether a higher or a lower score is better.
        leftovers: A glob of what a save that was cut off leaves.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        direction: Literal["max", "min"],
        leftovers: str,
    ):
        self._config = config
        self._sign = 1 if direction == "max" else -1
        self._leftovers = leftovers
        self._folder = config.folder.absolute()

    def path(self, step: int) -> Path:
        """The folder of a step, whether it exists or not."""
        return self._folder / str(step)

    def write_meta(self, folder: Path, text: str) -> None:
        """Put JSON with at least the key `score` beside the arrays."""
        (folder / _META).write_text(text)

    def read_meta(self, step: int) -> dict[str, Any]:
        """Read what `write_meta` wrote."""
        return json.loads((self.path(step) / _META).read_text())

    def tidy(self) -> list[int]:
        """Remove what saves and removals that were cut off have left.

        Returns:
            The steps among them, which were cut off between their files and digests.

        Raises:
            InputError: If there is a step that this library did not write.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for pattern in (self._leftovers, "removed-*"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        unfinished = []
        for step in self._steps():
            path = self.path(step)
            if (path / DIGESTS).exists():
                continue
            if not (path / _META).exists():
                raise InputError(
                    f"{path}: not a checkpoint of this library: name another folder "
                    "for checkpoints."
                )
            self._remove(path)
            unfinished.append(step)
        return unfinished

    def finish(self, folder: Path) -> None:
        """Write the digests of a step, then remove the steps that it replaces."""
        write_digests(folder, hashed=self._config.verify)
        sync_folder(self._folder)
        for step in self._surplus():
            self._remove(self.path(step))

    def newest(self, damaged: dict[int, str]) -> int | None:
        """The newest step that is whole, passing over those in `damaged`.

        Those that turn out damaged on the way are added to it.
        """
        for step in reversed(self._steps()):
            if step in damaged:
                continue
            try:
                check_digests(self.path(step), hashed=self._config.verify)
            except Unfinished:
                continue
            except Damaged as error:
                damaged[step] = str(error)
            else:
                return step
        return None

    def set_aside(self, step: int) -> str:
        """Rename a damaged step and return the name that it is kept under."""
        kept = _free(self._folder / f"damaged-{step}")
        self.path(step).rename(kept)
        return kept.name

    def _steps(self) -> list[int]:
        names = [path.name for path in self._folder.iterdir() if path.is_dir()]
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def _surplus(self) -> list[int]:
        steps, scores = self._steps(), {}
        for step in steps:
            # An old step may have been damaged meanwhile: then it is not the best.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                scores[step] = self._sign * float(self.read_meta(step)["score"])
        # of equals the first
        best = sorted(scores, key=lambda step: -scores[step])[: self._config.keep_best]
        return sorted(set(steps) - set(steps[-self._config.keep_last :]) - set(best))

    def _remove(self, path: Path) -> None:
        # Renamed first: a kill in between must not leave half a step.
        gone = _free(path.with_name(f"removed-{path.name}"))
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _free(path: Path) -> Path:
    """The first of NAME, NAME-2, NAME-3, ... that does not exist."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
