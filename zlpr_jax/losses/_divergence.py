"""Divergences between two rows of scores: distillation, R-Drop, adversarial smoothness.

Neither subtracts two large numbers. A regulariser compares scores that nearly agree,
where a loss of 20 less an entropy of 20 would be rounding error and nothing else.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zlpr_jax import _checks
from zlpr_jax._typing import Axis
from zlpr_jax.losses import _terms

# exp(16) squared, the largest product below, leaves its own square finite in float32:
# second derivatives need it.
_LARGEST_EXPONENT = 16.0


def zlpr_divergence(
    logits: Float[Array, "*shape"],
    teacher_logits: Float[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "*shape"] | None = None,
) -> Float[Array, "..."]:
    r"""ZLPR of a student against its teacher, less the smallest value it could have.

    With student scores `s`, teacher scores `u`, the teacher as soft labels
    $t = \sigma(2u)$ and the loss $L$ and the entropy $H$ of `zlpr_loss` and
    `zlpr_entropy`,

    $$ D(u \| s) = L(s; t) - H(t)
       = \log\sum_{i=0}^C p_i e^{s_i - u_i} + \log\sum_{i=0}^C p_i e^{u_i - s_i},
       \qquad p_i \propto \tfrac12 \mathrm{sech}\, u_i $$

    where the class 0 is the zero of the loss: $s_0 = u_0 = 0$, of weight 1. D is at
    least 0, and 0 only for s = u. It is accurate where s nearly equals u.

    Both arguments have gradients. A teacher that should stay as it is wants
    `jax.lax.stop_gradient(teacher_logits)`.

    Args:
        logits: scores of the student, floating point, any shape that has the class
            axes.
        teacher_logits: scores of the teacher, of the shape of `logits`; the dtype may
            differ. A class that is -inf (or inf) in both is left out.
        axis: the class axis, or several.
        where: entries that count, of the shape of `logits`; the others may hold
            anything, NaN included, and get a zero gradient. A row without any is 0.

    Returns:
        One divergence a row, not reduced: the shape of `logits` without the class axes.
        The arithmetic and the result have the wider dtype of the two, but at least
        float32; each gradient has the dtype of its argument.

    Raises:
        TypeError: if the scores are not floating point, `where` is not boolean or
            `axis` is not integer.
        ValueError: if a shape is not as above, or `axis` is out of range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_divergence
        >>> teacher = jnp.array([[2.0, -1.0, -3.0], [0.0, 0.0, 0.0]])
        >>> print(zlpr_divergence(jnp.zeros((2, 3)), teacher).round(4))
        [0.9874 0.    ]

    References:
        Su, "Multi-label cross entropy with soft labels" (in Chinese), 2022,
        https://kexue.fm/archives/9064
    """
    s, u, keep, axes = _two_rows(logits, teacher_logits, "teacher_logits", axis, where)
    # sigma(2u) is 0 or 1 long before; an infinite u would give inf - inf below.
    far = float(jnp.finfo(u.dtype).max) / 8
    u = jnp.where(jnp.isinf(u), jnp.where(u > 0, far, -far), u)
    log_w = -jnp.logaddexp(u, -u)
    # log w + (s - u) and its opposite; in this order nothing of s is lost to a huge u.
    up, down = s + (log_w - u), (log_w + u) - s
    weights = jnp.where(keep, jnp.exp(log_w), 0)
    log_z = jnp.log1p(jnp.sum(weights, axis=axes))

    # D does not depend on the shift m, so neither do its derivatives. The mean makes
    # both of the sums below non-negative: with m = 0 they would cancel.
    difference = jnp.where(keep, s - u, 0)
    m = jnp.sum(weights * difference, axis=axes) * jnp.exp(-log_z)
    m = jax.lax.stop_gradient(m)
    shift, norm = jnp.expand_dims(m, axes), jnp.expand_dims(log_z, axes)
    rising = difference >= shift
    exponents = jnp.where(rising, up - shift, down + shift) - norm
    peak = jnp.max(jnp.where(keep, exponents, -jnp.inf), axis=axes, initial=-jnp.inf)
    near = jnp.maximum(peak, jnp.abs(m) - log_z) < _LARGEST_EXPONENT

    here = keep & jnp.expand_dims(near, axes)
    classes = _terms_above_one(
        jnp.where(here, exponents, 0), jnp.where(here, difference - shift, 0), rising
    )
    m, rising = jnp.where(near, m, 0), m <= 0
    zero = _terms_above_one(jnp.abs(m) - log_z, -m, rising)
    both, first, second = (
        jnp.sum(jnp.where(here, of_classes, 0), axis=axes) + of_zero
        for of_classes, of_zero in zip(classes, zero, strict=True)
    )
    small = jnp.log1p(both + first * second)

    there = keep & ~jnp.expand_dims(near, axes)
    large = (
        _log_one_plus_sum_exp(up, there, axes)
        + _log_one_plus_sum_exp(down, there, axes)
        - 2 * log_z
    )
    return jnp.where(near, small, large)


def zlpr_symmetric_kl(
    logits: Float[Array, "*shape"],
    other_logits: Float[Array, "*shape"],
    axis: Axis = -1,
    where: Bool[Array, "*shape"] | None = None,
) -> Float[Array, "..."]:
    r"""Symmetric KL divergence of the classes as Bernoulli variables, summed.

    $$ \sum_i (\sigma(s_i) - \sigma(t_i))(s_i - t_i)
       = \sum_i \mathrm{KL}(\sigma(s_i) \| \sigma(t_i))
              + \mathrm{KL}(\sigma(t_i) \| \sigma(s_i)) $$

    The regulariser of R-Drop (two passes with different dropout) and of virtual
    adversarial training (with and without a small perturbation) for scores trained with
    `zlpr_loss`:
    `zlpr_loss(s, y) + zlpr_loss(t, y) + weight * zlpr_symmetric_kl(s, t)`. The weight
    has to be tuned: the sum grows with the number of classes, the loss hardly. It is
    accurate where the two nearly agree.

    Args:
        logits: scores, floating point, any shape that has the class axes.
        other_logits: scores of the shape of `logits`; the dtype may differ. A class
            that is -inf (or inf) in both is left out.
        axis: the class axis, or several.
        where: entries that count, of the shape of `logits`; the others may hold
            anything, NaN included, and get a zero gradient. A row without any is 0.

    Returns:
        One divergence a row, at least 0, not reduced: the shape of `logits` without the
        class axes. The arithmetic and the result have the wider dtype of the two, but
        at least float32; each gradient has the dtype of its argument.

    Raises:
        TypeError: if the scores are not floating point, `where` is not boolean or
            `axis` is not integer.
        ValueError: if a shape is not as above, or `axis` is out of range or repeated.

    Examples:
        >>> import jax.numpy as jnp
        >>> from zlpr_jax.losses import zlpr_symmetric_kl
        >>> one, other = jnp.array([2.0, -1.0, -3.0]), jnp.array([1.0, -1.0, 0.0])
        >>> print(f"{zlpr_symmetric_kl(one, other):.4f}")
        1.5075

    References:
        Su, "What should the KL divergence of GlobalPointer be?" (in Chinese), 2022,
        https://kexue.fm/archives/9039

        Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021,
        https://arxiv.org/abs/2106.14448

        Miyato et al., "Virtual Adversarial Training", IEEE TPAMI 41(8), 2019,
        https://arxiv.org/abs/1704.03976
    """
    s, t, keep, axes = _two_rows(logits, other_logits, "other_logits", axis, where)
    high, low = jnp.where(s >= t, s, t), jnp.where(s >= t, t, s)
    # sigma(h) - sigma(l) = sigma(h) sigma(-l) (1 - exp(l - h)): three factors, each of
    # full relative accuracy, and the same function of (s, t) on both sides of s = t.
    gap = -jnp.expm1(low - high)
    entries = jax.nn.sigmoid(high) * jax.nn.sigmoid(-low) * gap * (high - low)
    return jnp.sum(jnp.where(keep, entries, 0), axis=axes)


def _two_rows(
    logits: Float[Array, "*shape"],
    others: Float[Array, "*shape"],
    name: str,
    axis: Axis,
    where: Bool[Array, "*shape"] | None,
) -> tuple[
    Float[Array, "*shape"],
    Float[Array, "*shape"],
    Bool[Array, "*shape"],
    tuple[int, ...],
]:
    """Both rows in one dtype, 0 where excluded; which entries count; the axes."""
    _checks.check_floating("logits", logits)
    _checks.check_floating(name, others)
    _checks.check_shape(name, others.shape, logits.shape, "that of logits")
    if where is not None:
        _checks.check_boolean("where", where)
        _checks.check_shape("where", where.shape, logits.shape, "that of logits")
    axes = _checks.canonical_axes(axis, logits.shape)
    dtypes = [_terms.compute_dtype(one.dtype) for one in (logits, others)]
    wider = max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)
    s, t = logits.astype(wider), others.astype(wider)
    keep = ~((s == t) & jnp.isinf(s))
    if where is not None:
        keep = keep & where
    return jnp.where(keep, s, 0), jnp.where(keep, t, 0), keep, axes


class _Above(NamedTuple):
    """Summands, for the weight p and the difference d of a class."""

    both: Float[Array, "..."]  # p (exp(d) + exp(-d) - 2)
    first: Float[Array, "..."]  # p (exp(d) - 1)
    second: Float[Array, "..."]  # p (exp(-d) - 1)


def _terms_above_one(
    exponents: Float[Array, "*any"],
    difference: Float[Array, "*any"],
    rising: Bool[Array, "*any"],
) -> _Above:
    """The summands from `log p + |d|`, d and its sign.

    p alone may underflow, and exp(d) overflow. The sign is a constant to derivatives
    and never 0, as that of `abs` would be: every summand is the same smooth function of
    d on both sides of 0.
    """
    power = jnp.exp(exponents)
    fall = jnp.expm1(jnp.where(rising, -difference, difference))
    more, less = -power * fall, power * (1 + fall) * fall
    return _Above(
        power * fall * fall,
        jnp.where(rising, more, less),
        jnp.where(rising, less, more),
    )


def _log_one_plus_sum_exp(
    exponents: Float[Array, "*shape"],
    present: Bool[Array, "*shape"],
    axes: tuple[int, ...],
) -> Float[Array, "..."]:
    exponents = jnp.where(present, exponents, 0)
    peak = jnp.max(jax.lax.stop_gradient(exponents), axis=axes, initial=0)
    # An infinite peak would give inf - inf; under a finite one the sum is inf.
    peak = jnp.minimum(peak, float(jnp.finfo(peak.dtype).max))
    powers = jnp.exp(exponents - jnp.expand_dims(peak, axes))
    total = jnp.sum(jnp.where(present, powers, 0), axis=axes)
    return peak + jnp.log(jnp.exp(-peak) + total)
