"""Parameters on disk: safetensors, one name per path."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import path_name


def save_tree(path: Path, tree: PyTree) -> None:
    """Write a tree of arrays as safetensors, under "/"-joined paths."""
    arrays = {
        name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(tree).items()
    }
    # save_file would make the file readable to its owner only
    path.write_bytes(safetensors.numpy.save(arrays))


def load_tree(path: Path, like: PyTree) -> PyTree:
    """Read a tree of arrays that has the structure, shapes and dtypes of `like`.

    Raises:
        InputError: If the file is missing or damaged, or holds other arrays.
    """
    try:
        stored = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    expected = named_leaves(like)
    if stored.keys() != expected.keys():
        different = sorted(stored.keys() ^ expected.keys())
        raise InputError(
            f"{path}: the arrays differ from the model's at {', '.join(different)}: "
            "the run folder was written by another configuration."
        )
    for name, leaf in expected.items():
        found = stored[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise InputError(
                f"{path}: {name} is {found.dtype}{list(found.shape)}, the model needs "
                f"{leaf.dtype}{list(leaf.shape)}."
            )
    leaves = [jax.numpy.asarray(stored[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The arrays of a tree by their "/"-joined path.

    Raises:
        ValueError: If two of them have the same path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {path_name(path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two arrays of the tree have the same path: rename a key.")
    return named
