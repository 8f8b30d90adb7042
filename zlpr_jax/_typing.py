"""Shapes and aliases used across the library.

Shape letters in signatures: `B` batch, `C` classes, `D` width, `K` labels of a row.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

Axis: TypeAlias = int | Sequence[int]
AxisName: TypeAlias = str | tuple[str, ...]
PyTree: TypeAlias = Any
