"""The settings of a multi-label experiment. Standard library only, for `--help`."""

import dataclasses
from pathlib import Path
from typing import Literal

from zlpr_jax._errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer with linear warm-up and cosine decay of its learning rate.

    Attributes:
        method: Which optimizer.
        learning_rate: Peak learning rate, > 0.
        b1: Decay of the momentum, in [0, 1); not used by adafactor.
        b2: AdaX's long-term memory, > 0; not used by adafactor.
        weight_decay: Decoupled weight decay, >= 0, scaled by the learning rate; for
            adax the strength of its L2 penalty.
        warmup: Share of the steps that warm up, in [0, 1).
    """

    method: Literal["adax", "adaxw", "adafactor", "factored_adax"] = "adaxw"
    learning_rate: float = 2e-3
    b1: float = 0.9
    b2: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.05

    def __post_init__(self):
        check("learning_rate", self.learning_rate, low=0, open_low=True)
        check("b1", self.b1, low=0, high=1)
        check("b2", self.b2, low=0, open_low=True)
        check("weight_decay", self.weight_decay, low=0)
        check("warmup", self.warmup, low=0, high=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: a multi-layer perceptron.

    Attributes:
        hidden: Widths of the hidden layers; none for a linear model.
        dropout: Share of hidden units dropped in training, in [0, 1).
        input_dropout: Share of features dropped in training, in [0, 1).
    """

    hidden: tuple[int, ...] = (512,)
    dropout: float = 0.5
    input_dropout: float = 0.0

    def __post_init__(self):
        check("dropout", self.dropout, low=0, high=1)
        check("input_dropout", self.input_dropout, low=0, high=1)
        for width in self.hidden:
            check("hidden", width, low=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One comparison: the same network and seeds under each loss.

    Each seed trains twice: on the training rows without the validation part, to find
    the number of epochs with the best validation micro-F1, then on all training rows
    for that number.

    Attributes:
        run: Run folder to make; it must not exist. By default runs/NAME, numbered.
        losses: Losses to compare; the first one's model is kept in the run folder.
        seeds: Number of seeds, 0, 1, ...
        validation: Share of the training rows that validates, in (0, 1); which rows is
            the same for every seed and loss.
        steps: Optimizer steps at most.
        batch_size: Rows per step.
        eval_every: Steps between evaluations of the validation part.
        patience: Evaluations without a better micro-F1 before training stops.
        model: The network.
        optimizer: The optimizer.
        bce_learning_rate: Learning rate for bce where it needs its own.
    """

    run: Path | None = None
    losses: tuple[Literal["zlpr", "bce"], ...] = ("zlpr", "bce")
    seeds: int = 1
    validation: float = 0.2
    steps: int = 3000
    batch_size: int = 128
    eval_every: int = 50
    patience: int = 20
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    bce_learning_rate: float | None = None

    def __post_init__(self):
        for name in ("seeds", "steps", "batch_size", "eval_every", "patience"):
            check(name, getattr(self, name), low=1)
        check("validation", self.validation, low=0, high=1, open_low=True)
        if self.bce_learning_rate is not None:
            check("bce_learning_rate", self.bce_learning_rate, low=0, open_low=True)
        if not self.losses or len(set(self.losses)) < len(self.losses):
            raise InputError(
                f"losses must name one or two different losses, got {self.losses}."
            )


def check(
    name: str,
    value: float | int,
    *,
    low: float | int,
    high: float | int = float("inf"),
    open_low: bool = False,
) -> None:
    """Raise `InputError` unless `low <= value < high` (or `low < value`)."""
    if not low <= value < high or (open_low and value == low):
        lower = f"{'>' if open_low else '>='} {low}"
        upper = "" if high == float("inf") else f" and < {high}"
        raise InputError(f"{name} must be {lower}{upper}, got {value}.")
