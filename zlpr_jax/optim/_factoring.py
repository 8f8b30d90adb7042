"""Which arrays keep a factored second moment, and along which axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from zlpr_jax._checks import check_interval
from zlpr_jax.optim._storage import DenseStorage, FactoredStorage

Role: TypeAlias = str | None
"""`"row"`, `"col"`, `"batch"` or None: what an axis means to the second moment."""

AxisRule: TypeAlias = Callable[[str, tuple[int, ...]], Sequence[Role] | None]

_ROLES = ("row", "col", "batch", None)


@dataclass(frozen=True)
class Factoring:
    """A rule that says which arrays to factor, and how.

    Without `axes`, the axes of an array are split into two contiguous groups, the rows
    and the columns, where the state is smallest, and the array is factored if both
    groups have at least `min_dim` entries. So a (768, 12, 64) attention kernel is
    factored as (768, 768), and a matrix as everywhere.

    Layers stacked along an axis need `axes`, with the role `"batch"` for that axis:
    each slice is then treated as an array by itself.

    Attributes:
        min_dim: Smallest number of rows and of columns, at least 1, worth factoring.
        axes: Function of the "/"-joined path and the shape of a parameter. It returns
            one role for each axis: `"row"` and `"col"` are averaged over, `"batch"`
            separates independent arrays, and None keeps an axis without separating the
            root mean squares of clipping and scaling. Returning None instead of roles
            leaves that parameter to the rule above.

    Raises:
        ValueError: If `min_dim` is below 1, or `axes` returns roles that do not fit.
        TypeError: If `axes` is not a function, or returns neither roles nor None.

    Examples:
        >>> Factoring().roles("attention/query/kernel", (768, 12, 64))
        ('row', 'col', 'col')
        >>> stacked = Factoring(axes=lambda path, shape: ("batch", "row", "col"))
        >>> stacked.roles("layers/kernel", (24, 512, 512))
        ('batch', 'row', 'col')

    References:
        Shazeer & Stern, "Adafactor", arXiv:1804.04235; https://kexue.fm/archives/7302.
    """

    min_dim: int = 128
    axes: AxisRule | None = None

    def __post_init__(self) -> None:
        check_interval("min_dim", self.min_dim, "[1, inf)", "128 is usual.")
        if self.axes is not None and not callable(self.axes):
            raise TypeError(
                f"axes must be a function of a path and a shape, got {self.axes!r}: "
                "write lambda path, shape: ('row', 'col')."
            )

    def roles(self, path: str, shape: tuple[int, ...]) -> tuple[Role, ...]:
        """Return the role of each axis of the parameter at `path`."""
        roles = None if self.axes is None else self.axes(path, shape)
        if roles is None:
            return self._smallest_state(shape)
        if not isinstance(roles, Sequence) or isinstance(roles, str):
            raise TypeError(
                f"axes must give a tuple of roles or None for the parameter {path!r}, "
                f"got {roles!r}: a role is 'row', 'col', 'batch' or None."
            )
        roles = tuple(roles)
        if len(roles) != len(shape):
            raise ValueError(
                f"axes must give {len(shape)} roles for the parameter {path!r} of "
                f"shape {shape}, got {roles!r}: one role for each axis."
            )
        unknown = [role for role in roles if role not in _ROLES]
        if unknown:
            raise ValueError(
                f"axes gave the role {unknown[0]!r} for the parameter {path!r}: "
                "a role is 'row', 'col', 'batch' or None."
            )
        if ("row" in roles) != ("col" in roles):
            raise ValueError(
                f"axes gave {roles!r} for the parameter {path!r}: rows need columns "
                "and columns need rows; give neither to keep the moment dense."
            )
        return roles

    def batch_axes(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the axes that separate independent arrays."""
        return _axes_with("batch", self.roles(path, shape))

    def storage(
        self, path: str, shape: tuple[int, ...]
    ) -> DenseStorage | FactoredStorage:
        """Return how the second moment of the parameter at `path` is held."""
        roles = self.roles(path, shape)
        if "row" not in roles:
            return DenseStorage()
        return FactoredStorage(_axes_with("row", roles), _axes_with("col", roles))

    def _smallest_state(self, shape: tuple[int, ...]) -> tuple[Role, ...]:
        splits = [
            (math.prod(shape[:k]) + math.prod(shape[k:]), k)
            for k in range(1, len(shape))
            if min(math.prod(shape[:k]), math.prod(shape[k:])) >= self.min_dim
        ]
        if not splits:
            return (None,) * len(shape)
        _, first = min(splits)
        return ("row",) * first + ("col",) * (len(shape) - first)


def check_factoring(factoring: object) -> None:
    """Raise `TypeError` unless `factoring` is a `Factoring` or None."""
    if factoring is not None and not isinstance(factoring, Factoring):
        raise TypeError(
            f"factoring must be a Factoring or None, got {factoring!r}: "
            "write Factoring(min_dim=128)."
        )


def _axes_with(role: str, roles: tuple[Role, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, given in enumerate(roles) if given == role)
