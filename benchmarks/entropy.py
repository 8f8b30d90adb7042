"""The nearest-neighbour entropy beside KD-trees and beside dense distances in JAX.

    JAX_PLATFORMS=cpu python benchmarks/entropy.py [--only NAME ...] [--json]

Every estimate is of the same standard normal samples with k = 1. The peers: KD-trees of
SciPy (on all cores) and of scikit-learn, and the usual few lines of JAX, which hold all
N x N distances as |x|^2 - 2xy + |y|^2, where those fit.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _command import run_figures
from _measure import MIB, Program, Row, Settings, medians, ratio, short
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from sklearn.neighbors import KDTree

from zlpr_jax.estimators import knn_entropy

DIMENSIONS = 2, 16, 64
DENSE_MOST = 10_000  # samples; their distances are 400 MB
ONE_CORE_MOST = 320_000  # numbers


def samples_of(count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


def constant(count: int, dim: int) -> float:
    ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    return float(digamma(count) - digamma(1) + ball)


def by_scipy(samples: np.ndarray) -> float:
    distance = cKDTree(samples).query(samples, 2, workers=-1)[0][:, 1]
    return constant(*samples.shape) + samples.shape[1] * np.log(distance).mean()


def by_sklearn(samples: np.ndarray) -> float:
    distance = KDTree(samples).query(samples, 2)[0][:, 1]
    return constant(*samples.shape) + samples.shape[1] * np.log(distance).mean()


def dense(samples: jax.Array) -> jax.Array:
    """The usual lines: all distances at once, by a matrix product."""
    norms = jnp.square(samples).sum(1)
    squares = norms[:, None] - 2 * samples @ samples.T + norms[None]
    squares = squares + jnp.diag(jnp.full(len(samples), jnp.inf))
    logs = jnp.log(jnp.maximum(squares.min(1), 1e-12)) / 2
    return constant(*samples.shape) + samples.shape[1] * logs.mean()


def keeping(
    values: dict[str, float], name: str, run: Callable[[], Any]
) -> Callable[[], None]:
    def keep() -> None:
        values[name] = float(run())

    return keep


def entropy_time(settings: Settings) -> list[Row]:
    """Time of an estimate over that of each peer."""
    sizes = (1_000, 2_000) if settings.quick else (1_000, 10_000, 60_000)
    rows = []
    for count in sizes:
        for dim in DIMENSIONS:
            samples = samples_of(count, dim)
            ours = Program(knn_entropy, samples)
            runs: dict[str, Callable[[], Any]] = {
                "ours": ours,
                "SciPy": lambda samples=samples: by_scipy(samples),
            }
            # above, one run takes minutes
            if count * dim <= ONE_CORE_MOST:
                runs["scikit-learn"] = lambda samples=samples: by_sklearn(samples)
            if count <= DENSE_MOST:
                runs["dense JAX"] = Program(dense, samples)
            values: dict[str, float] = {}
            times = medians(
                {name: keeping(values, name, run) for name, run in runs.items()},
                settings.repeats or (5 if count <= 10_000 else 1),
                warm=count <= 10_000,
            )
            for name, value in values.items():
                # the usual dense distances are differences of large numbers
                near = 1e-2 if name == "dense JAX" else 1e-4
                assert math.isclose(value, values["SciPy"], rel_tol=near), values
            rows += [
                ratio(times["ours"], time, "ms", peer, f"N {count}, d {dim}, {peer}")
                for peer, time in times.items()
                if peer != "ours"
            ]
    return rows


def entropy_memory(settings: Settings) -> list[Row]:
    """Temporary memory at N = 60,000, of the estimate and of its gradient."""
    count = 2_000 if settings.quick else 60_000
    rows = []
    for dim in DIMENSIONS:
        shape = jax.ShapeDtypeStruct((count, dim), jnp.float32)
        for name, function in (
            ("value", knn_entropy),
            ("gradient", jax.grad(knn_entropy)),
        ):
            memory = jax.jit(function).lower(shape).compile().memory_analysis()
            bytes_ = memory.temp_size_in_bytes + memory.argument_size_in_bytes
            distances = f"{short(4 * count**2 / 1e6)} MB of distances"
            part = f"{name}, N {count}, d {dim}"
            versus = f"{short(bytes_ / MIB)} MiB with the samples; {distances}"
            rows.append(Row(value=bytes_ / 1e6, unit="MB", versus=versus, part=part))
    return rows


FIGURES = {entropy_time: None, entropy_memory: 250.0}

if __name__ == "__main__":
    run_figures("entropy", __doc__, FIGURES)
