"""How long, in what portions and how carefully to train. Standard library only."""

import dataclasses
from typing import Literal

from zlpr_jax._errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long, in what portions and how carefully to train.

    Attributes:
        steps: Optimizer steps at most.
        batch_size: Records per step, over all devices.
        eval_every: Steps between evaluations of the validation records.
        report_every: Steps between reports.
        patience: Evaluations without a better headline before training stops; `None`
            never stops early.
        seed: Seeds initialisation, the order of the records and dropout.
        accumulate: Parts that a batch is worked off in, one after the other, for less
            memory. The gradient is the mean of theirs.
        clip_norm: Global norm that gradients are scaled down to, > 0; `None` for none.
        ema: Decay of an exponential moving average of the parameters, in [0, 1), which
            is then what is evaluated and returned; `None` for none. Over the first
            steps t it is at most `(1 + t) / (10 + t)`, so that the initialisation is
            soon forgotten.
        compute_dtype: What the loss is computed in. Parameters, gradients and optimizer
            stay float32.
        remat: Keep only the results of matrix products for the backward pass and
            compute the rest again: less memory, more time.
        skip_limit: Steps in a row with a loss or gradient that is not finite before
            training stops. Such a step changes nothing and is reported.
        bucket: Put records of similar length into one batch, where the task has
            lengths.
    """

    steps: int = 3000
    batch_size: int = 128
    eval_every: int = 100
    report_every: int = 25
    patience: int | None = 10
    seed: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    skip_limit: int = 10
    bucket: bool = False

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "eval_every",
            "report_every",
            "patience",
            "accumulate",
            "skip_limit",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be >= 1, got {value}.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate must divide batch_size {self.batch_size}, "
                f"got {self.accumulate}."
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm must be > 0, got {self.clip_norm}.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"ema must be in [0, 1), got {self.ema}.")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"compute_dtype must be float32 or bfloat16, got {self.compute_dtype}."
            )

    def evaluates(self, step: int) -> bool:
        """Whether the validation records are scored after this step."""
        return step == self.steps or step % self.eval_every == 0
