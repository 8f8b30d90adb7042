"""The shape of a `Decoder`, and the blocks that it asks for."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from flax import nnx

from zlpr_jax.nn import (
    Attention,
    Block,
    DenseScores,
    DotProductScores,
    FactorizedDenseScores,
    FactorizedRandomScores,
    FixedRandomScores,
    RandomScores,
    Scores,
)

Component = Literal[
    "dot", "dense", "factorized-dense", "random", "fixed-random", "factorized-random"
]
COMPONENTS = get_args(Component)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a `Decoder`.

    Attributes:
        vocabulary: Number of tokens.
        max_length: Most tokens of a text, prompt and answer together.
        width: Of a token's representation.
        layers: Number of blocks.
        heads: Of attention; width must be a multiple.
        hidden: Width inside of a block; by default four times the width.
        attention: Where attention gets its scores from; with more than one, from a
            learned mixture of them in every head.
        positions: What tells a token where it stands: a learned vector added to it,
            rotary or relative (NEZHA) positions in attention, or nothing. Dot-product
            scores need one of them; the tables of synthesizers belong to positions
            anyhow, and rotary positions act on dot-product scores alone.
        distance: Offset up to which relative positions are told apart.
        rank: Of factorized-random.
        norm: Layer normalisation before each part of a block, or after it.
        dropout: Share of what each part of a block adds that is dropped in training,
            and of the first representation, in [0, 1).
        tied: Whether the output layer is the embedding.
        remat: Whether the backward pass computes what is inside of a block again, which
            takes less memory.
    """

    vocabulary: int
    max_length: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int | None = None
    attention: tuple[Component, ...] = ("dot",)
    positions: Literal["learned", "rotary", "relative", "none"] = "learned"
    distance: int = 64
    rank: int = 8
    norm: Literal["pre", "post"] = "pre"
    dropout: float = 0.0
    tied: bool = True
    remat: bool = False

    def __post_init__(self):
        for name in ("vocabulary", "max_length", "width", "layers", "heads"):
            check_at_least(1, name, getattr(self, name))
        check_at_least(1, "distance", self.distance)
        check_at_least(1, "rank", self.rank)
        if self.hidden is not None:
            check_at_least(1, "hidden", self.hidden)
        if self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, got {self.width} and {self.heads}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        names = self.attention
        if not names or len(set(names)) < len(names) or set(names) - set(COMPONENTS):
            raise ValueError(
                f"attention must name one or more of {', '.join(COMPONENTS)}, each "
                f"once, got {names}."
            )
        for name, allowed in (
            ("positions", ("learned", "rotary", "relative", "none")),
            ("norm", ("pre", "post")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, name)!r}."
                )


def make_block(config: DecoderConfig, rngs: nnx.Rngs) -> Block:
    """One block of a decoder."""
    width, heads = config.width, config.heads
    relative = config.distance if config.positions == "relative" else None
    makers = _makers(config, relative)
    scores = [makers[name](rngs) for name in config.attention]
    attention = Attention(
        width, heads, scores, relative=relative, use_bias=True, rngs=rngs
    )
    return Block(
        width,
        config.hidden or 4 * width,
        attention,
        norm=config.norm,
        dropout=config.dropout,
        rngs=rngs,
    )


def _makers(
    config: DecoderConfig, relative: int | None
) -> Mapping[str, Callable[[nnx.Rngs], Scores]]:
    width, heads, length = config.width, config.heads, config.max_length
    return {
        "dot": lambda rngs: DotProductScores(
            width,
            heads,
            rotary=config.positions == "rotary",
            relative=relative,
            use_bias=True,
            rngs=rngs,
        ),
        "dense": lambda rngs: DenseScores(width, heads, length, rngs=rngs),
        "factorized-dense": lambda rngs: FactorizedDenseScores(
            width, heads, length, rngs=rngs
        ),
        "random": lambda rngs: RandomScores(heads, length, rngs=rngs),
        "fixed-random": lambda rngs: FixedRandomScores(heads, length, rngs=rngs),
        "factorized-random": lambda rngs: FactorizedRandomScores(
            heads, length, rank=config.rank, rngs=rngs
        ),
    }


def check_at_least(low: int, name: str, value: int) -> None:
    """Raise `ValueError` if a value is below the lowest allowed."""
    if value < low:
        raise ValueError(f"{name} must be >= {low}, got {value}.")
