"""One training loop for every task. Needs the extra `train`."""

from zlpr_jax.training._checkpoint import CheckpointConfig
from zlpr_jax.training._config import FitConfig
from zlpr_jax.training._curves import draw_curves
from zlpr_jax.training._evaluate import evaluate, predict
from zlpr_jax.training._fit import FitResult, fit
from zlpr_jax.training._interrupt import first_interrupt
from zlpr_jax.training._ledger import Progress
from zlpr_jax.training._mesh import make_mesh, param_shardings, parse_mesh, put_batch
from zlpr_jax.training._metrics import MetricsLog
from zlpr_jax.training._packing import PackedRecords, pack_rows
from zlpr_jax.training._parameters import load_tree, save_tree
from zlpr_jax.training._processes import initialize_processes
from zlpr_jax.training._profile import Profile
from zlpr_jax.training._report import ProgressBar
from zlpr_jax.training._run import RunFolder, default_run, read_json

__all__ = [
    "CheckpointConfig",
    "FitConfig",
    "FitResult",
    "MetricsLog",
    "PackedRecords",
    "Profile",
    "Progress",
    "ProgressBar",
    "RunFolder",
    "default_run",
    "draw_curves",
    "evaluate",
    "first_interrupt",
    "fit",
    "initialize_processes",
    "load_tree",
    "make_mesh",
    "pack_rows",
    "param_shardings",
    "parse_mesh",
    "predict",
    "put_batch",
    "read_json",
    "save_tree",
]
