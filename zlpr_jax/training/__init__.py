"""One training loop for every task. Needs the extra `train`."""

from zlpr_jax.training._checkpoint import load_tree, save_tree
from zlpr_jax.training._fit import (
    FitConfig,
    FitResult,
    Progress,
    evaluate,
    fit,
    predict,
)
from zlpr_jax.training._interrupt import first_interrupt
from zlpr_jax.training._report import ProgressBar
from zlpr_jax.training._run import RunFolder, default_run, read_json

__all__ = [
    "FitConfig",
    "FitResult",
    "Progress",
    "ProgressBar",
    "RunFolder",
    "default_run",
    "evaluate",
    "first_interrupt",
    "fit",
    "load_tree",
    "predict",
    "read_json",
    "save_tree",
]
