"""Multi-label learning in JAX: the ZLPR loss, AdaFactor and AdaX.

The packages below are imported when they are first used, so that `import zlpr_jax`
costs nothing and needs no extra:

    losses      ZLPR and metric counts; jax only
    optim       AdaFactor and AdaX as optax transformations
    estimators  entropy from nearest neighbours; jax only
    nn          Flax modules                            (extra `nn`)
    models      networks                                (extra `nn`)
    data        files -> records; no jax                (extra `data`)
    tasks       records -> batches -> loss -> scores    (extra `train`)
    training    one loop for every task                 (extra `train`)
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zlpr_jax import data, estimators, losses, models, nn, optim, tasks, training
    from zlpr_jax.losses import (
        predict_topk,
        zlpr_linear_loss,
        zlpr_loss,
        zlpr_loss_with_integer_labels,
        zlpr_predict,
        zlpr_probabilities,
        zlpr_span_loss,
    )
    from zlpr_jax.optim import adafactor, adax, adaxw, factored_adax

_NAMES = {
    "predict_topk": "losses",
    "zlpr_linear_loss": "losses",
    "zlpr_loss": "losses",
    "zlpr_loss_with_integer_labels": "losses",
    "zlpr_predict": "losses",
    "zlpr_probabilities": "losses",
    "zlpr_span_loss": "losses",
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
    "estimators",
    "factored_adax",
    "losses",
    "models",
    "nn",
    "optim",
    "predict_topk",
    "tasks",
    "training",
    "zlpr_linear_loss",
    "zlpr_loss",
    "zlpr_loss_with_integer_labels",
    "zlpr_predict",
    "zlpr_probabilities",
    "zlpr_span_loss",
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
