"""The two log-sum-exps of ZLPR, in three passes over the scores.

The first pass finds the peaks, the second adds, the third is the gradient. Each reads
the scores and labels once, and none keeps anything of their size: the third computes
its exponentials anew from the peaks. (Automatic differentiation had the second
pass write its exponentials, and more: 224 MiB for 256 rows of 65,536 soft labels.) The
derivative of a sum is again made of plain operations, so that forward mode, reverse
mode and Hessians all work.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from zlpr_jax._typing import AxisName
from zlpr_jax.losses import _mesh, _pairs

# Fewer classes than this are summed in no time at all.
_MANY = 1024

# One for log(1 + sum_P exp(-s)), one for log(1 + sum_N exp(s)).
Pair = tuple[Array, Array]


class Hard(NamedTuple):
    """Scores, each in one term or in none.

    Attributes:
        scores: finite where excluded.
        positive: the entries of the first term.
        negative: the entries of the second.
    """

    scores: Float[Array, "*shape"]
    positive: Bool[Array, "*shape"]
    negative: Bool[Array, "*shape"]

    def candidates(self) -> Pair:
        """The exponents, from which the peaks are taken."""
        return (
            jnp.where(self.positive, -self.scores, 0),
            jnp.where(self.negative, self.scores, 0),
        )

    def summands(self, offsets: Pair) -> Pair:
        """The summands divided by `exp(offset)`: one exponential for both."""
        # Written without a part that two passes share: XLA would store it.
        first, second = offsets
        powers = jnp.exp(
            jnp.where(self.positive, -first - self.scores, self.scores - second)
        )
        return (
            jnp.where(self.positive, powers, 0),
            jnp.where(self.negative, powers, 0),
        )

    def changes(
        self, offsets: Pair, scores: Array | None, labels: Array | None = None
    ) -> Pair:
        """How the summands change along `scores`."""
        del labels  # boolean
        first, second = self.summands(offsets)
        scores = jnp.zeros_like(self.scores) if scores is None else scores
        return -first * scores, second * scores


class Soft(NamedTuple):
    """Scores and soft labels: every entry is in both terms, with weights t and 1 - t.

    The weights are factors, but count in the peaks, as powers of two: an entry with the
    largest score and a weight of almost zero would otherwise be the peak, and all the
    others underflow. (`logsumexp(b=...)` has a wrong derivative at a weight of zero.)

    Attributes:
        scores: finite where excluded.
        labels: of the same dtype, finite where excluded.
        where: the entries that count; `None` for all.
    """

    scores: Float[Array, "*shape"]
    labels: Float[Array, "*shape"]
    where: Bool[Array, "*shape"] | None

    def candidates(self) -> Pair:
        first, second = self._present()
        return (
            jnp.where(first, _log_of_power_of_two(self.labels) - self.scores, 0),
            jnp.where(second, _log_of_power_of_two(1 - self.labels) + self.scores, 0),
        )

    def summands(self, offsets: Pair) -> Pair:
        first, second = self._powers(offsets)
        return self.labels * first, (1 - self.labels) * second

    def changes(
        self, offsets: Pair, scores: Array | None, labels: Array | None
    ) -> Pair:
        """How the summands change along `scores` and `labels`."""
        first, second = self._powers(offsets)
        along = jnp.zeros_like(self.scores) if scores is None else scores
        of_first = -self.labels * first * along
        of_second = (1 - self.labels) * second * along
        if labels is not None:
            of_first = of_first + first * labels
            of_second = of_second - second * labels
        return of_first, of_second

    def _present(self) -> Pair:
        # A subnormal weight counts as 0: it is flushed to it on most devices.
        tiny = float(jnp.finfo(self.labels.dtype).tiny)
        first, second = self.labels >= tiny, 1 - self.labels >= tiny
        if self.where is not None:
            first, second = first & self.where, second & self.where
        return first, second

    def _powers(self, offsets: Pair) -> Pair:
        """Finite: the exponents are at most -log of the smallest normal number."""
        first, second = self._present()
        # Masked before and after the exponential, for the sake of its derivative.
        return (
            _masked_exp(first, -offsets[0] - self.scores),
            _masked_exp(second, self.scores - offsets[1]),
        )


def log_terms(
    entries: Hard | Soft, axes: tuple[int, ...], axis_name: AxisName | None
) -> Pair:
    """`log(1 + sum_P exp(-s))` and `log(1 + sum_N exp(s))` over the class axes.

    Args:
        entries: scores and labels.
        axes: the class axes.
        axis_name: the mesh axis that the classes are split over.
    """
    sums = _sums
    if axis_name is not None and not _mesh.is_tracked(entries.scores, axis_name):
        sums = _untracked_sums
    peaks, totals = sums(axes, axis_name, entries)
    return peaks[0] + jnp.log(totals[0]), peaks[1] + jnp.log(totals[1])


def joined(
    peak: Float[Array, "*rows"],
    total: Float[Array, "*rows"],
    axis_name: AxisName | None,
) -> Pair:
    """Peak and `1 + sum` divided by `exp(peak)`, the parts of all devices together.

    The zero class is in here, once, and not in the parts.
    """
    if axis_name is not None:
        highest = jax.lax.pmax(peak, axis_name)
        total = jax.lax.psum(total * jnp.exp(peak - highest), axis_name)
        peak = highest
    return peak, jnp.exp(-peak) + total


def bounded(peak: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """An infinite peak would give `inf - inf`; under a finite one the sum is inf."""
    return jnp.minimum(peak, float(jnp.finfo(peak.dtype).max))


def _values(
    axes: tuple[int, ...], axis_name: AxisName | None, entries: Hard | Soft
) -> tuple[Pair, Pair]:
    """The peak of each term, a constant to derivatives, and its sum under that peak."""
    peaks = _pairs.pair_max(*entries.candidates(), axes)
    peaks = bounded(peaks[0]), bounded(peaks[1])
    totals = _local_sums(entries, _expanded(peaks, axes), axes)
    first, second = (
        joined(peak, total, axis_name)
        for peak, total in zip(peaks, totals, strict=True)
    )
    return (first[0], second[0]), (first[1], second[1])


def _local_sums(entries: Hard | Soft, offsets: Pair, axes: tuple[int, ...]) -> Pair:
    return jax.lax.platform_dependent(
        entries, offsets, cpu=partial(_cpu_sums, axes), default=partial(_plain, axes)
    )


def _plain(axes: tuple[int, ...], entries: Hard | Soft, offsets: Pair) -> Pair:
    first, second = entries.summands(offsets)
    return jnp.sum(first, axis=axes), jnp.sum(second, axis=axes)


def _cpu_sums(axes: tuple[int, ...], entries: Hard | Soft, offsets: Pair) -> Pair:
    ndim, size = entries.scores.ndim, entries.scores.shape[-1]
    if axes != (ndim - 1,) or size < _MANY:
        return _pairs.pair_sum(*entries.summands(offsets), axes)
    whole = size - size % _pairs.LANES
    # The inputs are cut, and not the summands: these would be stored for the two cuts.
    most = jax.tree.map(lambda array: array[..., :whole], entries)
    first, second = _pairs.lane_sum(*most.summands(offsets))
    if whole < size:
        rest = jax.tree.map(lambda array: array[..., whole:], entries)
        one, two = _pairs.pair_sum(*rest.summands(offsets), axes=axes)
        first, second = first + one, second + two
    return first, second


def _changes(
    axes: tuple[int, ...],
    entries: Hard | Soft,
    peaks: Pair,
    scores: Array | None,
    labels: Array | None = None,
) -> Pair:
    """How the sums change along scores and labels, this device's part."""
    first, second = entries.changes(_expanded(peaks, axes), scores, labels)
    return jnp.sum(first, axis=axes), jnp.sum(second, axis=axes)


_sums = jax.custom_jvp(_values, nondiff_argnums=(0, 1))


@partial(_sums.defjvp, symbolic_zeros=True)
def _sums_jvp(axes, axis_name, primals, tangents):
    (entries,) = primals
    # Booleans have no tangents, and constant labels none to speak of.
    scores, labels = (
        None if isinstance(tangent, SymbolicZero) else tangent
        for tangent in tangents[0][:2]
    )
    peaks, totals = _sums(axes, axis_name, entries)
    # Behind the barrier the third pass looks unlike the second; alike, XLA would have
    # the second keep its exponentials for the third.
    apart = jax.lax.optimization_barrier(jax.lax.stop_gradient(peaks))
    changes = _changes(axes, entries, apart, scores, labels)
    if axis_name is not None:
        changes = jax.lax.psum(changes, axis_name)
    none = jax.tree.map(jnp.zeros_like, peaks)
    return (peaks, totals), (none, changes)


# Where nothing is tracked the transpose of psum would be another psum.
_untracked_sums = jax.custom_vjp(_values, nondiff_argnums=(0, 1))


def _untracked_forward(axes, axis_name, entries):
    peaks, totals = _values(axes, axis_name, entries)
    return (peaks, totals), (entries, peaks)


def _untracked_backward(axes, axis_name, residuals, cotangents):
    entries, peaks = residuals
    floats = entries[:1] if isinstance(entries, Hard) else entries[:2]
    changes = partial(_changes, axes, entries, peaks)
    gradients = jax.linear_transpose(changes, *floats)(cotangents[1])
    nothing = (None,) * (len(entries) - len(gradients))
    return (type(entries)(*gradients, *nothing),)


_untracked_sums.defvjp(_untracked_forward, _untracked_backward)


def _expanded(rows: Pair, axes: tuple[int, ...]) -> Pair:
    return jnp.expand_dims(rows[0], axes), jnp.expand_dims(rows[1], axes)


def _masked_exp(present: Array, exponents: Array) -> Array:
    return jnp.where(present, jnp.exp(jnp.where(present, exponents, 0)), 0)


def _log_of_power_of_two(weights: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log w` of normal numbers, rounded down to a multiple of `log 2`."""
    kind: Any = jnp.finfo(weights.dtype)
    integer = jnp.int32 if kind.bits == 32 else jnp.int64
    exponent = jax.lax.bitcast_convert_type(weights, integer) >> kind.nmant
    return (exponent - (kind.maxexp - 1)).astype(weights.dtype) * math.log(2)
