"""Multi-label learning in JAX: the ZLPR loss, AdaFactor and AdaX.

The packages below are imported when they are first used, so that `import zlpr_jax`
costs nothing and needs no extra:

    losses    ZLPR and metric counts; jax only
    optim     AdaFactor and AdaX as optax transformations
    nn        Flax modules                            (extra `nn`)
    models    networks                                (extra `nn`)
    data      files -> records; no jax                (extra `data`)
    tasks     records -> batches -> loss -> scores    (extra `train`)
    training  one loop for every task                 (extra `train`)
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zlpr_jax import data, losses, models, nn, optim, tasks, training
    from zlpr_jax.losses import (
        zlpr_loss,
        zlpr_loss_with_integer_labels,
        zlpr_predict,
        zlpr_probabilities,
    )
    from zlpr_jax.optim import adafactor, adax, adaxw, factored_adax

_NAMES = {
    "zlpr_loss": "losses",
    "zlpr_loss_with_integer_labels": "losses",
    "zlpr_predict": "losses",
    "zlpr_probabilities": "losses",
    "adafactor": "optim",
    "adax": "optim",
    "adaxw": "optim",
    "factored_adax": "optim",
}

__all__ = [
    "adafactor",
    "adax",
    "adaxw",
    "data",
    "factored_adax",
    "losses",
    "models",
    "nn",
    "optim",
    "tasks",
    "training",
    "zlpr_loss",
    "zlpr_loss_with_integer_labels",
    "zlpr_predict",
    "zlpr_probabilities",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("zlpr-jax")
    if name in _NAMES:
        package = importlib.import_module(f"zlpr_jax.{_NAMES[name]}")
        return getattr(package, name)
    if name in __all__:
        return importlib.import_module(f"zlpr_jax.{name}")
    raise AttributeError(f"module 'zlpr_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
