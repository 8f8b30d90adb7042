"""What the training loop says where the types in its signatures would say it first."""

import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.training import FitConfig


def test_compute_dtype():
    with pytest.raises(InputError, match="compute_dtype must be float32 or bfloat16"):
        FitConfig(compute_dtype="float16")
