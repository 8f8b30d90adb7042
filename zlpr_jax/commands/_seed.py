"""The option --seed."""

import jax

from zlpr_jax._errors import InputError


def seeded(seed: int) -> jax.Array:
    """The key of a seed; jax would take only the lowest 32 bits of a larger one.

    Raises:
        InputError: If it is out of range.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed must be in [0, {2**32 - 1}], got {seed}.")
    return jax.random.key(seed)
