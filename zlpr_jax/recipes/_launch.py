"""From the command line, or from a run folder, to a running recipe."""

import argparse
import dataclasses
import functools
import importlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from zlpr_jax._errors import InputError
from zlpr_jax.recipes import RECIPES
from zlpr_jax.recipes._settings import arguments, from_json, read_settings
from zlpr_jax.training import initialize_processes, read_json
from zlpr_jax.training._run import is_complete

_FILE = "--config FILE reads settings from a .json or .toml file; flags override them."


def train(recipe: str, settings: Sequence[str]) -> None:
    """Run a recipe.

    Args:
        recipe: One of `RECIPES`.
        settings: Flags; `--config FILE` among them names a file of defaults for them.
    """
    import tyro

    module = _module(recipe)
    prog = f"zlpr-jax train {recipe}"
    parser = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    options, flags = parser.parse_known_args(settings)
    given = {}
    if options.config is not None:
        stored = read_settings(options.config)
        given = arguments(module.Config, stored, source=str(options.config))
    about, _, _ = inspect.cleandoc(module.Config.__doc__).partition("\n\nAttributes:")
    config = tyro.cli(
        functools.partial(module.Config, **given),
        args=flags,
        prog=prog,
        description=f"{about}\n\n{_FILE}",
    )
    initialize_processes()
    module.run(config)


def resume(run_path: str, *, mesh: str | None, verify: bool) -> None:
    """Go on with a run that was interrupted.

    Args:
        run_path: The run folder.
        mesh: Devices, instead of those that the run was started on.
        verify: Whether to check the files of a checkpoint, if the run's settings do.

    Raises:
        InputError: If there is no run to go on with, or its config.json was damaged.
    """
    path = Path(run_path)
    if not os.path.isdir(path):
        raise InputError(
            f"{path}: no such run folder: give the folder that `zlpr-jax train` made."
        )
    if is_complete(path):
        print(f"{path}: the run is complete, there is nothing to resume")
        return
    source = path / "config.json"
    stored = read_json(source)
    recipe = stored.get("recipe") if isinstance(stored, dict) else None
    if recipe not in RECIPES:
        raise InputError(
            f"{source}: recipe must be one of {', '.join(RECIPES)}, got {recipe!r}."
        )
    module = _module(recipe)
    settings = stored.get("settings")
    config = from_json(module.Config, settings, source=f"{source}, settings")
    config = dataclasses.replace(
        config,
        run=path,
        mesh=mesh or config.mesh,
        verify=verify and config.verify,
    )
    initialize_processes()
    module.run(config, resume=True)


def _module(recipe: str) -> ModuleType:
    return importlib.import_module(f"zlpr_jax.recipes.{recipe.replace('-', '_')}")
