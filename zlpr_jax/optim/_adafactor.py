"""AdaFactor, and its counterpart with the memory of AdaX."""

from typing import Any

import jax.numpy as jnp
import optax

from zlpr_jax._checks import check_interval
from zlpr_jax.optim._arrays import Scalar, ScalarOrSchedule, scaled
from zlpr_jax.optim._decay import Decay, adax_decay, capped, power_decay
from zlpr_jax.optim._factoring import Factoring
from zlpr_jax.optim._momentum import absent, average_updates, check_dtype
from zlpr_jax.optim._precision import in_full_precision
from zlpr_jax.optim._rate import check_learning_rate, relative_step, scale_by_rate
from zlpr_jax.optim._rms import scale_by_parameter_rms
from zlpr_jax.optim._second_moment import scale_by_second_moment
from zlpr_jax.optim._weight_decay import add_parameters


def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    *,
    decay: Decay = power_decay(),
    factoring: Factoring | None = Factoring(),
    clip: Scalar | None = 1.0,
    eps: Scalar = 1e-30,
    parameter_scale: bool = True,
    momentum: Scalar | None = None,
    momentum_dtype: Any = None,
    stochastic_rounding: bool = False,
    weight_decay: Scalar = 0.0,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaFactor: adaptive steps from a second moment of sublinear size.

    V_t = (1 - w_t) V_{t-1} + w_t (g_t^2 + eps), held as row and column means R, C:
    V_t ~ R C^T / mean(R), w_t = t^-0.8
    u_t = g_t / sqrt(V_t), then u_t / max(1, RMS(u_t) / clip)
    p_t = p_{t-1} - rho_t max(RMS(p_{t-1}), 1e-3) u_t - rho_t weight_decay p_{t-1}

    Unlike `optax.adafactor`, leaving the learning rate out gives the paper's step and
    not a step as large as the parameters, weight decay is multiplied by the learning
    rate, and the state is float32 beside bfloat16 parameters.

    Args:
        learning_rate: rho_t: a number at least 0, an optax schedule, or None for
            `relative_step()`, that is min(1e-2, 1 / sqrt(t)). With `parameter_scale`
            it is relative to the size of the parameters.
        decay: Gives w_t.
        factoring: Which second moments to hold as row and column means, and which axes
            stack independent arrays; None holds every entry.
        clip: Largest root mean square of the update of one array, above 0; None
            leaves it free.
        eps: Added to the squared gradient; at least 0.
        parameter_scale: Whether to multiply steps by RMS(p), at least 1e-3.
        momentum: Decay in [0, 1) of an average of the scaled steps; None for none.
        momentum_dtype: Dtype of that average; None for float32.
        stochastic_rounding: Whether to round a bfloat16 average at random, so that it
            does not stall; see `average_updates`.
        weight_decay: Share of the parameters, at least 0, taken away at each step,
            multiplied by the learning rate and outside the momentum.
        mask: Tree of booleans like the parameters, or a function that gives it from
            them: where to decay the weights. None decays all.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If a concrete setting is outside its range, or the parameters that
            it needs are not passed to `update`.

    Examples:
        >>> import jax.numpy as jnp
        >>> tx = adafactor()
        >>> params = {"kernel": jnp.ones((256, 128))}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 6)
        -0.01

    References:
        Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory
        Cost", arXiv:1804.04235; https://kexue.fm/archives/7302.
    """
    rate = relative_step() if learning_rate is None else learning_rate
    check_learning_rate(rate)
    check_interval("eps", eps, "[0, inf)", "1e-30 is usual.")
    if momentum is not None:
        check_interval("momentum", momentum, "[0, 1)", "0.9 is usual.")
    check_dtype("momentum_dtype", momentum_dtype, stochastic_rounding)
    check_interval("weight_decay", weight_decay, "[0, inf)", "0 leaves it out.")
    parts: list[optax.GradientTransformation] = [
        scale_by_second_moment(decay, factoring=factoring, eps_sq=eps, clip=clip),
    ]
    if parameter_scale:
        parts.append(scale_by_parameter_rms(factoring=factoring))
    parts.append(scale_by_rate(rate))
    if momentum is not None and not absent(momentum):
        parts.append(
            average_updates(
                momentum, momentum_dtype, stochastic_rounding=stochastic_rounding
            )
        )
    if not absent(weight_decay):
        parts.append(add_parameters(_product(rate, weight_decay), mask))
    parts.append(optax.scale(-1.0))
    return in_full_precision(optax.chain(*parts))


def factored_adax(
    learning_rate: ScalarOrSchedule | None = None,
    *,
    b2: Scalar = 1e-4,
    max_beta2: Scalar | None = 0.999,
    factoring: Factoring | None = Factoring(),
    clip: Scalar | None = 1.0,
    eps: Scalar = 1e-30,
    parameter_scale: bool = True,
    momentum: Scalar | None = None,
    momentum_dtype: Any = None,
    stochastic_rounding: bool = False,
    weight_decay: Scalar = 0.0,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaX's long-term memory in AdaFactor's storage. Experimental.

    As `adafactor`, with w_t = max(b2 / ((1 + b2)^t - 1), 1 - max_beta2)

    The combination is new here and no regret bound is claimed. Without the cap, a row
    of a table that is first used after 1e5 steps would take a step of thousands of
    learning rates, and clipping that would starve the other rows: keep both on.

    Args:
        learning_rate: A number at least 0, an optax schedule, or None for
            `relative_step()`. The second moment nearly stops changing, so the decay of
            the steps must come from here.
        b2: Growth of the memory at each step, above 0.
        max_beta2: Largest share of the old second moment kept at a step, in [0, 1];
            None sets no limit.
        factoring: As in `adafactor`.
        clip: As in `adafactor`.
        eps: As in `adafactor`.
        parameter_scale: As in `adafactor`.
        momentum: As in `adafactor`.
        momentum_dtype: As in `adafactor`.
        stochastic_rounding: As in `adafactor`.
        weight_decay: As in `adafactor`.
        mask: As in `adafactor`.

    Returns:
        An optax transformation.

    Raises:
        ValueError: If a concrete setting is outside its range, or the parameters that
            it needs are not passed to `update`.

    Examples:
        >>> import jax.numpy as jnp
        >>> tx = factored_adax()
        >>> params = {"kernel": jnp.ones((256, 128))}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 6)
        -0.01

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235.
        Li et al., "AdaX: Adaptive Gradient Descent with Exponential Long Term Memory",
        arXiv:2004.09740.
    """
    decay = adax_decay(b2)
    return adafactor(
        learning_rate,
        decay=decay if max_beta2 is None else capped(decay, max_beta2),
        factoring=factoring,
        clip=clip,
        eps=eps,
        parameter_scale=parameter_scale,
        momentum=momentum,
        momentum_dtype=momentum_dtype,
        stochastic_rounding=stochastic_rounding,
        weight_decay=weight_decay,
        mask=mask,
    )


def _product(rate: ScalarOrSchedule, factor: Scalar) -> ScalarOrSchedule:
    """Return rate x factor, as a schedule where the rate is one."""
    if callable(rate):
        return lambda count: scaled(jnp.asarray(rate(count)), factor)
    return scaled(jnp.asarray(rate), factor)
