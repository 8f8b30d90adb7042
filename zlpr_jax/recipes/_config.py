"""The settings of recipes. Standard library only, for `--help`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from zlpr_jax._errors import InputError

Config = TypeVar("Config", bound="ExperimentConfig")
Loss = Literal["zlpr", "bce", "zlpr_smooth", "zlpr_rdrop"]

# Above this many labels the scores of a batch are never held: `zlpr_linear_loss`.
LINEAR_LABELS = 10_000


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
        hidden: Widths of the hidden layers; none for a linear model. By default 512,
            above 10,000 labels 128.
        dropout: Share of hidden units dropped in training, in [0, 1). By default 0.5,
            above 10,000 labels 0.
        input_dropout: Share of features dropped in training, in [0, 1).
    """

    hidden: tuple[int, ...] | None = None
    dropout: float | None = None
    input_dropout: float = 0.0

    def __post_init__(self):
        if self.dropout is not None:
            check("dropout", self.dropout, low=0, high=1)
        check("input_dropout", self.input_dropout, low=0, high=1)
        for width in self.hidden or ():
            check("hidden", width, low=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a pretrained encoder reads texts and is fine-tuned.

    Attributes:
        length: Tokens read of a text, at most.
        pooling: What stands for a text: the mean of its tokens, or the first of them.
        dropout: Share of that dropped in training, in [0, 1); the encoder has its own.
        learning_rate: Peak learning rate of the encoder's last layer, > 0; that of the
            optimizer is for the new output layer.
        layer_decay: What the learning rate of each layer is of that of the next one, in
            (0, 1].
    """

    length: int = 128
    pooling: Literal["mean", "first"] = "mean"
    dropout: float = 0.1
    learning_rate: float = 1e-4
    layer_decay: float = 0.9

    def __post_init__(self):
        check("length", self.length, low=3)
        check("dropout", self.dropout, low=0, high=1)
        check("learning_rate", self.learning_rate, low=0, open_low=True)
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must be in (0, 1], got {self.layer_decay}.")


# tyro needs values here, not factories
_MODEL = ModelConfig()
_TEXT = TextConfig()
_OPTIMIZER = OptimizerConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What every recipe takes for its training loop and its run folder.

    Attributes:
        run: Run folder to make; it must not exist. By default runs/NAME, numbered.
        seeds: Number of seeds, 0, 1, ...
        eval_every: Steps between evaluations of the validation part.
        clip_norm: Global norm that gradients are scaled down to, > 0.
        ema: Decay of a moving average of the parameters, in [0, 1), which is then what
            is evaluated and kept.
        compute_dtype: What the loss is computed in; parameters stay float32.
        remat: Compute results again in the backward pass: less memory, more time.
        skip_limit: Steps in a row that are not finite before training stops.
        mesh: How to split the work over devices, such as data=4,fsdp=2: rows over data
            and fsdp, large parameters over fsdp, above 10,000 labels the labels over
            label. By default one device; of several processes all along data.
        save_every: Steps between checkpoints.
        keep_last: Newest checkpoints kept, >= 1, beside the best.
        verify: Whether resuming checks every file of a checkpoint first.
        keep_checkpoints: Whether they stay when the run is complete.
        tensorboard: Whether to write TensorBoard events beside metrics.jsonl.
        profile: Steps of the first training to write a profiler trace of.
    """

    run: Path | None = None
    seeds: int = 1
    eval_every: int | None = 50
    clip_norm: float | None = None
    ema: float | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    skip_limit: int = 10
    mesh: str | None = None
    save_every: int = 500
    keep_last: int = 2
    verify: bool = True
    keep_checkpoints: bool = False
    tensorboard: bool = True
    profile: int = 0

    # training.FitConfig checks what it takes from here
    def __post_init__(self):
        check("seeds", self.seeds, low=1)
        check("save_every", self.save_every, low=1)
        check("keep_last", self.keep_last, low=1)
        check("profile", self.profile, low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig(LoopConfig):
    """One comparison: the same network and seeds under each loss.

    Each seed trains twice: on the training rows without the validation part, to find
    the number of epochs with the best validation score (micro-F1, above 10,000 labels
    P@1), then on all training rows for that number.

    Attributes:
        losses: Losses to compare; the first one's model is kept in the run folder. By
            default zlpr and bce; zlpr_smooth has smoothed labels, zlpr_rdrop scores
            each row twice, with different dropout, and keeps both alike. Above 10,000
            labels zlpr alone: others would need the scores of all labels at once.
        smoothing: What a label loses with zlpr_smooth, in (0, 0.5).
        r_drop: Weight of the divergence with zlpr_rdrop, > 0.
        encoder: Folder of a pretrained encoder (BERT, NEZHA, RoFormer) to fine-tune on
            texts. By default texts become TF-IDF features.
        validation: Share of the training rows that validates, in (0, 1); which rows is
            the same for every seed and loss. Above 10,000 labels at most 5,000 rows.
        refit: Whether to train again on all rows. Without, the model is the one with
            the best validation score, in half the time.
        steps: Optimizer steps at most. By default 3000, above 10,000 labels 1000.
        batch_size: Rows per step, over all devices. By default 128, above 10,000 labels
            512, with an encoder 32.
        eval_every: Steps between evaluations of the validation part. By default 50,
            with an encoder 500.
        patience: Evaluations without a better score before training stops; None never
            stops early.
        report_every: Steps between reports. By default 25, above 10,000 labels 5.
        accumulate: Parts that a batch is worked off in, for less memory.
        bucket: Put rows of similar length into one batch, where rows have lengths; with
            an encoder they always are.
        model: The network.
        optimizer: The optimizer.
        bce_learning_rate: Learning rate for bce where it needs its own.
        text: How the encoder reads, and learns.
    """

    losses: tuple[Loss, ...] | None = None
    smoothing: float = 0.1
    r_drop: float = 0.5
    encoder: Path | None = None
    validation: float = 0.2
    refit: bool = True
    steps: int | None = None
    batch_size: int | None = None
    eval_every: int | None = None
    patience: int | None = 20
    report_every: int | None = None
    accumulate: int = 1
    bucket: bool = False
    model: ModelConfig = _MODEL
    optimizer: OptimizerConfig = _OPTIMIZER
    bce_learning_rate: float | None = None
    text: TextConfig = _TEXT

    def __post_init__(self):
        super().__post_init__()
        check("validation", self.validation, low=0, high=1, open_low=True)
        if self.bce_learning_rate is not None:
            check("bce_learning_rate", self.bce_learning_rate, low=0, open_low=True)
        losses = self.losses
        if losses is not None and not 0 < len(losses) == len(set(losses)):
            raise InputError(f"losses must name different losses, got {losses}.")
        check("smoothing", self.smoothing, low=0, high=0.5, open_low=True)
        check("r_drop", self.r_drop, low=0, open_low=True)


_FEW = {
    "losses": ("zlpr", "bce"),
    "steps": 3000,
    "batch_size": 128,
    "eval_every": 50,
    "report_every": 25,
    "model": {"hidden": (512,), "dropout": 0.5},
}
# with an encoder
_TEXTS = {
    **_FEW,
    "batch_size": 32,
    "eval_every": 500,
}
_MANY = {
    **_FEW,
    "losses": ("zlpr",),
    "steps": 1000,
    "batch_size": 512,
    "report_every": 5,
    "model": {"hidden": (128,), "dropout": 0.0},
}


def settle(config: Config, labels: int) -> Config:
    """Decide what the settings leave open for a set with this many labels.

    Raises:
        InputError: If they ask for what so many labels do not allow.
    """
    many = labels > LINEAR_LABELS
    if many and (others := set(config.losses or ()) - {"zlpr"}):
        raise InputError(
            f"{' and '.join(sorted(others))} needs the scores of all {labels} labels "
            f"at once; above {LINEAR_LABELS} labels give --losses zlpr alone."
        )
    if many and config.encoder is not None:
        raise InputError(
            f"an encoder is fine-tuned for up to {LINEAR_LABELS} labels, there are "
            f"{labels}: leave --encoder out."
        )
    if config.encoder is not None:
        return dataclasses.replace(_filled(config, _TEXTS), bucket=True)
    return _filled(config, _MANY if many else _FEW)


def _filled(config: Any, defaults: Mapping[str, Any]) -> Any:
    """`config` with `defaults` where it says `None`."""
    changes = {
        name: _filled(getattr(config, name), value) if name == "model" else value
        for name, value in defaults.items()
        if name == "model" or getattr(config, name) is None
    }
    return dataclasses.replace(config, **changes)
