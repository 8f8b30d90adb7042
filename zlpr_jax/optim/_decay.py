"""How fast a second moment forgets: the weight w_t = 1 - beta_t of the newest square.

A decay is a frozen dataclass with one method and is not callable, because
`optax.inject_hyperparams` takes every callable argument for a schedule.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from zlpr_jax._checks import check_interval
from zlpr_jax.optim._arrays import Scalar

Step = int | Int[Array, ""] | Float[Array, ""]


@runtime_checkable
class Decay(Protocol):
    """What `scale_by_second_moment` asks of a decay."""

    def weight(self, step: Step) -> Float[Array, ""]:
        """Return w_t in [0, 1] for the 1-based `step`."""
        ...


def check_decay(decay: object) -> None:
    """Raise `TypeError` unless `decay` is one."""
    if isinstance(decay, type) or not isinstance(decay, Decay):
        raise TypeError(
            f"decay must have a method weight(step), got {decay!r}: "
            "build it with power_decay, adam_decay or adax_decay."
        )


def _real(value: Any) -> Float[Array, ""]:
    """Return `value` in the widest float dtype in use: float64 under x64, else f32."""
    return jnp.asarray(value).astype(jnp.result_type(float))


def _split(kappa: Scalar) -> tuple[Any, Any]:
    """Return log(1 + kappa) as a part of 12 bits and the rest."""
    if not isinstance(kappa, float | int):
        return jnp.log1p(_real(kappa)), 0.0
    rate = math.log1p(kappa)
    mantissa, exponent = math.frexp(rate)
    high = math.ldexp(round(math.ldexp(mantissa, 12)), exponent - 12)
    return high, rate - high


def _compound_weight(kappa: Scalar, step: Step) -> Float[Array, ""]:
    """Return w_t = kappa / ((1 + kappa)^t - 1), kappa in (-1, inf) and not 0.

    kappa = -(1 - b2) is bias-corrected Adam, kappa > 0 is AdaX. The power is taken as
    expm1(t log1p(kappa)): as a power it loses kappa to rounding, and it overflows near
    t = 887,000 for kappa = 1e-4, whereas expm1 at infinity is the weight 0.
    """
    high, low = _split(kappa)
    time = _real(step)
    # exp multiplies the rounding of its argument by the argument, so the product
    # t log1p(kappa) is kept as a sum of which the first term is exact in float32.
    blocks = jnp.floor(time / 256)
    exact = blocks * (256 * high)
    tail = (time - 256 * blocks) * high + time * low
    exponent = exact + tail
    lost = tail - (exponent - exact)
    growth = jnp.expm1(exponent)
    growth = jnp.where(jnp.isinf(growth), growth, growth + (growth + 1) * lost)
    weight = jnp.clip(_real(kappa) / growth, 0.0, 1.0)
    # Exactly 1 at first, so that a constant gradient leaves exactly its square.
    return jnp.where(time <= 1, jnp.ones_like(weight), weight)


@dataclass(frozen=True)
class AdamDecay:
    """Bias-corrected exponential decay; see `adam_decay`."""

    b2: Scalar

    def __post_init__(self) -> None:
        check_interval("b2", self.b2, "[0, 1)", "Adam's usual value is 0.999.")

    def weight(self, step: Step) -> Float[Array, ""]:
        """Return (1 - b2) / (1 - b2^t) for the 1-based `step`."""
        if isinstance(self.b2, float | int) and self.b2 == 0:
            return jnp.ones((), jnp.result_type(float))
        if isinstance(self.b2, float | int):
            return _compound_weight(self.b2 - 1, step)
        return _compound_weight(_real(self.b2) - 1, step)


@dataclass(frozen=True)
class PowerDecay:
    """Decay by a power of the step; see `power_decay`."""

    exponent: Scalar
    offset: int | Int[Array, ""]

    def __post_init__(self) -> None:
        check_interval(
            "exponent", self.exponent, "(0, 1]", "Adafactor's usual value is 0.8."
        )
        check_interval(
            "offset", self.offset, "[0, inf)", "it is the number of steps to leave out."
        )

    def weight(self, step: Step) -> Float[Array, ""]:
        """Return max(t - offset, 1)^-exponent for the 1-based `step`."""
        # Up to the offset the weight is 1, so that a fresh state stays finite.
        elapsed = jnp.maximum(_real(step) - _real(self.offset), 1.0)
        return elapsed ** -_real(self.exponent)


@dataclass(frozen=True)
class AdaXDecay:
    """Exponential long-term memory; see `adax_decay`."""

    b2: Scalar

    def __post_init__(self) -> None:
        check_interval("b2", self.b2, "(0, inf)", "AdaX's usual value is 1e-4.")

    def weight(self, step: Step) -> Float[Array, ""]:
        """Return b2 / ((1 + b2)^t - 1) for the 1-based `step`."""
        return _compound_weight(self.b2, step)


@dataclass(frozen=True)
class CappedDecay:
    """A decay that never remembers longer than a limit; see `capped`."""

    decay: Decay
    max_beta2: Scalar

    def __post_init__(self) -> None:
        check_decay(self.decay)
        check_interval("max_beta2", self.max_beta2, "[0, 1]", "0.999 is usual.")

    def weight(self, step: Step) -> Float[Array, ""]:
        """Return max(w_t, 1 - max_beta2) for the 1-based `step`."""
        if isinstance(self.max_beta2, float | int):
            least = _real(1 - self.max_beta2)
        else:
            least = 1 - _real(self.max_beta2)
        return jnp.maximum(self.decay.weight(step), least)


def adam_decay(b2: Scalar = 0.999) -> AdamDecay:
    """Adam's exponential moving average with its bias correction folded in.

    w_t = (1 - b2) / (1 - b2^t)

    Args:
        b2: Share of the old second moment kept at each step, in [0, 1).

    Returns:
        A decay for `scale_by_second_moment`.

    Raises:
        ValueError: If `b2` is concrete and outside [0, 1).

    Examples:
        >>> [round(float(adam_decay(0.5).weight(t)), 4) for t in (1, 2, 3)]
        [1.0, 0.6667, 0.5714]

    References:
        Kingma & Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980.
    """
    return AdamDecay(b2)


def power_decay(exponent: Scalar = 0.8, offset: int | Int[Array, ""] = 0) -> PowerDecay:
    """Adafactor's decay: the memory grows with training and needs no bias correction.

    w_t = max(t - offset, 1)^-exponent

    Args:
        exponent: How fast the memory grows, in (0, 1]; 1 is the mean of all squares.
        offset: Number of steps, at least 0, to leave out of `t`: the step at which
            fine-tuning began, when the step count was restored. The second moment
            starts anew there.

    Returns:
        A decay for `scale_by_second_moment`.

    Raises:
        ValueError: If a concrete argument is outside its range.

    Examples:
        >>> [round(float(power_decay().weight(t)), 4) for t in (1, 2, 3)]
        [1.0, 0.5743, 0.4152]

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235.
    """
    return PowerDecay(exponent, offset)


def adax_decay(b2: Scalar = 1e-4) -> AdaXDecay:
    """AdaX's exponential long-term memory, in a form that never overflows.

    w_t = b2 / ((1 + b2)^t - 1) <= 1 / t

    Early squares are never forgotten: the weight of a new one falls like 1 / t at
    first, exponentially later. A coordinate whose first gradient comes late therefore
    takes large steps; `capped` limits them.

    Args:
        b2: Growth of the memory at each step, above 0.

    Returns:
        A decay for `scale_by_second_moment`.

    Raises:
        ValueError: If `b2` is concrete and not above 0.

    Examples:
        >>> [round(float(adax_decay(0.5).weight(t)), 4) for t in (1, 2, 3)]
        [1.0, 0.4, 0.2105]
        >>> float(adax_decay().weight(2_000_000))
        0.0

    References:
        Li et al., "AdaX: Adaptive Gradient Descent with Exponential Long Term Memory",
        arXiv:2004.09740; https://kexue.fm/archives/7387.
    """
    return AdaXDecay(b2)


def capped(decay: Decay, max_beta2: Scalar = 0.999) -> CappedDecay:
    """Give a decay a memory of at most 1 / (1 - max_beta2) steps.

    w_t = max(decay.weight(t), 1 - max_beta2)

    Under AdaX this gives up w_t <= 1 / t, on which its regret bound rests, and in
    return a late coordinate moves by at most 1 / sqrt(1 - max_beta2) learning rates.

    Args:
        decay: The decay to limit.
        max_beta2: Largest share of the old second moment kept at a step, in [0, 1].

    Returns:
        A decay for `scale_by_second_moment`.

    Raises:
        ValueError: If `max_beta2` is concrete and outside [0, 1].
        TypeError: If `decay` has no method `weight`.

    Examples:
        >>> round(float(capped(adax_decay(), 0.99).weight(100_000)), 4)
        0.01

    References:
        Zhai et al., "Scaling Vision Transformers", arXiv:2106.04560.
    """
    return CappedDecay(decay, max_beta2)
