"""The settings that recipes of language models share."""

import dataclasses
from typing import Literal

from zlpr_jax._errors import InputError
from zlpr_jax.recipes._config import LoopConfig, OptimizerConfig, check

_OPTIMIZER = OptimizerConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig(LoopConfig):
    """Decoders that differ in their attention, and are trained alike.

    Attributes:
        attention: Where attention gets its scores from, a model for each: dot, dense,
            factorized-dense, random, fixed-random, factorized-random, or several of
            them joined by + for a learned mixture; mixture is dense+dot.
        width: Of a token's representation; a multiple of heads.
        layers: Number of blocks.
        heads: Of attention.
        dropout: Share of what each part of a block adds that is dropped in training,
            >= 0 and < 1.
        positions: What tells a token where it stands.
        steps: Optimizer steps of each training.
        batch_size: Rows per step, over all devices.
        patience: Evaluations without a better held-out score before training stops;
            None never stops early.
        report_every: Steps between reports.
        optimizer: The optimizer.
    """

    attention: tuple[str, ...] = ("dot", "random", "dense", "mixture")
    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0
    positions: Literal["learned", "rotary", "relative", "none"] = "learned"
    steps: int = 1000
    eval_every: int = 100
    batch_size: int = 32
    patience: int | None = None
    report_every: int = 25
    optimizer: OptimizerConfig = _OPTIMIZER

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "layers", "heads"):
            check(name, getattr(self, name), low=1)
        check("dropout", self.dropout, low=0, high=1)
        if self.width % self.heads:
            raise InputError(
                f"width must be a multiple of heads, got {self.width} and {self.heads}."
            )
        if not self.attention:
            raise InputError("attention must name at least one.")
