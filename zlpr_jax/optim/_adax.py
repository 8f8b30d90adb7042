"""AdaX with an L2 penalty, and AdaXW with decoupled weight decay."""

from typing import Any

import optax

from zlpr_jax._checks import check_interval
from zlpr_jax.optim._arrays import Scalar, ScalarOrSchedule
from zlpr_jax.optim._decay import adax_decay
from zlpr_jax.optim._momentum import absent
from zlpr_jax.optim._precision import in_full_precision
from zlpr_jax.optim._rate import check_learning_rate, scale_by_rate
from zlpr_jax.optim._second_moment import scale_by_second_moment
from zlpr_jax.optim._weight_decay import add_parameters


def adax(
    learning_rate: ScalarOrSchedule = 1.5e-3,
    b1: Scalar = 0.9,
    b2: Scalar = 1e-4,
    eps: Scalar = 1e-12,
    *,
    l2: Scalar = 5e-4,
    mu_dtype: Any = None,
    stochastic_rounding: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdaX: Adam with a second moment that never forgets.

    g_t <- g_t + l2 p_{t-1}
    m_t = b1 m_{t-1} + (1 - b1) g_t, without bias correction
    v_t = v_{t-1} + w_t (g_t^2 - v_{t-1}), w_t = b2 / ((1 + b2)^t - 1)
    p_t = p_{t-1} - learning_rate m_t / (sqrt(v_t) + eps)

    The second moment is held normalised. The published recurrence, which holds
    ((1 + b2)^t - 1) v_t, gives the same steps until it overflows float32 near step
    887,000. The second moment all but stops changing with time, so steps only become
    smaller where the learning rate does: use a schedule that decreases.

    Args:
        learning_rate: A number at least 0, or an optax schedule.
        b1: Decay of the first moment, in [0, 1); the Python number 0 keeps none.
        b2: Growth of the memory at each step, above 0.
        eps: Added to the root of the normalised second moment; at least 0.
        l2: Strength of the penalty added to the gradients; at least 0.
        mu_dtype: Dtype of the first moment; None for float32 (float64 for 64-bit
            parameters).
        stochastic_rounding: Whether to round a bfloat16 first moment at random, so that
            it does not stall; see `average_updates`.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If a concrete setting is outside its range, or the parameters that
            `l2` needs are not passed to `update`.

    Examples:
        >>> import jax.numpy as jnp
        >>> tx = adax(0.1, b1=0.0, l2=0.0)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(2 * params, tx.init(params), params)
        >>> [round(float(u), 6) for u in updates]
        [-0.1, 0.1]

    References:
        Li et al., "AdaX: Adaptive Gradient Descent with Exponential Long Term Memory",
        arXiv:2004.09740; https://kexue.fm/archives/7387.
    """
    check_learning_rate(learning_rate)
    moment = scale_by_second_moment(
        adax_decay(b2),
        eps=eps,
        b1=b1,
        mu_dtype=mu_dtype,
        stochastic_rounding=stochastic_rounding,
        l2=l2,
    )
    descent = [scale_by_rate(learning_rate), optax.scale(-1.0)]
    return in_full_precision(optax.chain(moment, *descent))


def adaxw(
    learning_rate: ScalarOrSchedule = 5e-3,
    b1: Scalar = 0.9,
    b2: Scalar = 1e-4,
    eps: Scalar = 1e-12,
    *,
    weight_decay: Scalar = 5e-2,
    mask: Any = None,
    mu_dtype: Any = None,
    stochastic_rounding: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdaX with decoupled weight decay.

    m_t, v_t as in `adax`, without the penalty
    p_t = p_{t-1} - learning_rate (m_t / (sqrt(v_t) + eps) + weight_decay p_{t-1})

    Args:
        learning_rate: A number at least 0, or an optax schedule.
        b1: Decay of the first moment, in [0, 1); the Python number 0 keeps none.
        b2: Growth of the memory at each step, above 0.
        eps: Added to the root of the normalised second moment; at least 0.
        weight_decay: Share of the parameters, at least 0, taken away at each step,
            multiplied by the learning rate.
        mask: Tree of booleans like the parameters, or a function that gives it from
            them: where to decay the weights. None decays all.
        mu_dtype: Dtype of the first moment; None for float32 (float64 for 64-bit
            parameters).
        stochastic_rounding: Whether to round a bfloat16 first moment at random, so that
            it does not stall; see `average_updates`.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If a concrete setting is outside its range, or the parameters that
            the decay needs are not passed to `update`.

    Examples:
        >>> import jax.numpy as jnp
        >>> tx = adaxw(0.1, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.zeros(1), tx.init(params), params)
        >>> round(float(updates[0]), 6)
        -0.05

    References:
        Li et al., "AdaX: Adaptive Gradient Descent with Exponential Long Term Memory",
        arXiv:2004.09740.
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
    """
    check_learning_rate(learning_rate)
    check_interval("weight_decay", weight_decay, "[0, inf)", "0 leaves it out.")
    moment = scale_by_second_moment(
        adax_decay(b2),
        eps=eps,
        b1=b1,
        mu_dtype=mu_dtype,
        stochastic_rounding=stochastic_rounding,
    )
    decay = [] if absent(weight_decay) else [add_parameters(weight_decay, mask)]
    descent = [scale_by_rate(learning_rate), optax.scale(-1.0)]
    return in_full_precision(optax.chain(moment, *decay, *descent))
