"""Second-moment optimizers for optax: AdaFactor, AdaX, and the parts they share."""

from zlpr_jax.optim._adafactor import adafactor, factored_adax
from zlpr_jax.optim._adax import adax, adaxw
from zlpr_jax.optim._decay import (
    Decay,
    adam_decay,
    adax_decay,
    capped,
    power_decay,
)
from zlpr_jax.optim._factoring import Factoring
from zlpr_jax.optim._momentum import MomentumState, average_updates
from zlpr_jax.optim._path_scale import Factor, layerwise_rules, scale_by_path
from zlpr_jax.optim._precision import in_full_precision
from zlpr_jax.optim._rate import relative_step
from zlpr_jax.optim._rms import clip_by_block_rms, scale_by_parameter_rms
from zlpr_jax.optim._second_moment import SecondMomentState, scale_by_second_moment
from zlpr_jax.optim._sharding import state_nbytes, state_shardings
from zlpr_jax.optim._storage import FactoredMoment
from zlpr_jax.optim._weight_decay import add_parameters

__all__ = [
    "Decay",
    "Factor",
    "FactoredMoment",
    "Factoring",
    "MomentumState",
    "SecondMomentState",
    "adafactor",
    "adam_decay",
    "adax",
    "adax_decay",
    "adaxw",
    "add_parameters",
    "average_updates",
    "capped",
    "clip_by_block_rms",
    "factored_adax",
    "in_full_precision",
    "layerwise_rules",
    "power_decay",
    "relative_step",
    "scale_by_parameter_rms",
    "scale_by_path",
    "scale_by_second_moment",
    "state_nbytes",
    "state_shardings",
]
