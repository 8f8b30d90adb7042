"""From optimizer settings to an optax transformation."""

import jax.numpy as jnp
import optax

from zlpr_jax import optim
from zlpr_jax.recipes._config import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer, its learning rate warming up and decaying over `steps`."""
    warmup = max(1, round(config.warmup * steps))
    cosine = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(steps, warmup + 1)
    )

    def schedule(count):
        # optax compares the count with floats: under strict promotion it has to be one
        return cosine(jnp.asarray(count, jnp.float32))

    match config.method:
        case "adax":
            return optim.adax(schedule, config.b1, config.b2, l2=config.weight_decay)
        case "adaxw":
            return optim.adaxw(
                schedule, config.b1, config.b2, weight_decay=config.weight_decay
            )
        case "adafactor":
            return optim.adafactor(
                schedule, parameter_scale=False, weight_decay=config.weight_decay
            )
        case "factored_adax":
            return optim.factored_adax(
                schedule,
                b2=config.b2,
                momentum=config.b1,
                parameter_scale=False,
                weight_decay=config.weight_decay,
            )
