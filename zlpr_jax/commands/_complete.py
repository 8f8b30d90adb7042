"""A complete run folder, of the recipe that a command is for."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from zlpr_jax._errors import InputError
from zlpr_jax.training import read_json
from zlpr_jax.training._run import is_complete, resume_command

# What there is for a run of each recipe.
COMMANDS = {
    "yeast": "`zlpr-jax evaluate` and `zlpr-jax predict`",
    "multilabel": "`zlpr-jax evaluate` and `zlpr-jax predict`",
    "goemotions": "`zlpr-jax evaluate` and `zlpr-jax predict`",
    "eae": "`zlpr-jax sample` and `zlpr-jax interpolate`",
    "synthesizer-text": "`zlpr-jax generate` and `zlpr-jax show`",
    "synthesizer-copy": "`zlpr-jax show`",
}


def read_config(path: Path, recipes: Collection[str]) -> dict[str, Any]:
    """Read config.json of a run that is complete.

    Args:
        path: The run folder.
        recipes: The recipes that the command is for.

    Raises:
        InputError: If there is none, it is not complete, or is of another recipe.
    """
    if not os.path.isdir(path):
        raise InputError(
            f"{path}: no such run folder: give the folder that `zlpr-jax train` made."
        )
    config = read_json(path / "config.json")
    if not is_complete(path):
        raise InputError(
            f"{path}: the run is not complete: finish it with `{resume_command(path)}`."
        )
    recipe = config.get("recipe") if isinstance(config, dict) else None
    if recipe not in recipes:
        other = f": for it there is {COMMANDS[recipe]}" if recipe in COMMANDS else ""
        raise InputError(
            f"{path}: a run of the recipe {recipe!r}, this command is for "
            f"{' and '.join(recipes)}{other}."
        )
    return config
