"""Encoders of the BERT family: BERT, NEZHA and RoFormer."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from zlpr_jax.nn import (
    Attention,
    Block,
    DotProductScores,
    LayerNorm,
    Places,
    Stack,
    segment_mask,
)

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
POSITIONS = ("learned", "relative", "rotary")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a `Bert`; by default that of BERT-base.

    Attributes:
        vocabulary: Number of tokens.
        width: Of a token's representation.
        layers: Number of blocks.
        heads: Of attention; width must be a multiple.
        hidden: Width inside of a block.
        positions: What tells a token where it stands: a learned vector added to it
            (BERT), relative positions in scores and values (NEZHA), or rotated queries
            and keys (RoFormer).
        max_length: Most tokens of a text.
        distance: Offset up to which relative positions are told apart.
        token_types: Number of token types, such as first and second text.
        activation: Inside of a block and the masked head; gelu is that of the error
            function, gelu_tanh its approximation.
        epsilon: Added to the variance by layer normalisation.
        dropout: Share of what each part of a block adds that is dropped in training,
            and of the embeddings, in [0, 1).
        attention_dropout: Share of what is attended to that is dropped in training, in
            [0, 1).
        pooler: Whether there is a `Bert.pooled`.
        masked_head: Whether there is a `Bert.masked_logits`.
        remat: Whether the backward pass computes what is inside of a block again, which
            takes less memory.
    """

    vocabulary: int
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: Literal["learned", "relative", "rotary"] = "learned"
    max_length: int = 512
    distance: int = 64
    token_types: int = 2
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler: bool = True
    masked_head: bool = False
    remat: bool = False

    def __post_init__(self):
        for name in (
            *("vocabulary", "width", "layers", "heads", "hidden", "max_length"),
            *("distance", "token_types"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, got {self.width} and {self.heads}."
            )
        if self.positions != "learned" and self.width // self.heads % 2:
            raise ValueError(
                f"{self.positions} positions need heads of an even width, got "
                f"{self.width // self.heads} ({self.width} / {self.heads} heads)."
            )
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be > 0, got {self.epsilon}.")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be in [0, 1), got {getattr(self, name)}."
                )
        for name, allowed in (("positions", POSITIONS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, name)!r}."
                )


class Bert(nnx.Module):
    """An encoder of texts: embeddings, then transformer blocks that normalise last.

    It computes in the dtype of its parameters; softmax and the statistics of layer
    normalisation are float32 at least.

    Args:
        config: Its shape.
        rngs: For initialisation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> config = BertConfig(vocabulary=100, width=64, layers=2, heads=4, hidden=128)
        >>> bert = Bert(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.array([[7, 8, 9], [5, 6, 0]])
        >>> hidden = bert(tokens, where=tokens > 0)
        >>> hidden.shape, bert.pooled(hidden).shape
        ((2, 3, 64), (2, 64))

    References:
        Devlin et al., "BERT", https://arxiv.org/abs/1810.04805
        Wei et al., "NEZHA", https://arxiv.org/abs/1909.00204
        Su et al., "RoFormer", https://arxiv.org/abs/2104.09864
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.tokens = _table(config.vocabulary, width, rngs)
        self.positions = (
            _table(config.max_length, width, rngs)
            if config.positions == "learned"
            else None
        )
        self.token_types = _table(config.token_types, width, rngs)
        self.norm = LayerNorm(width, epsilon=config.epsilon, rngs=rngs)
        self.stack = Stack(
            config.layers,
            functools.partial(_block, config),
            remat=config.remat,
            rngs=rngs,
        )
        self.pooler = nnx.Linear(width, width, rngs=rngs) if config.pooler else None
        self.masked_head = MaskedHead(config, rngs=rngs) if config.masked_head else None
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        where: Bool[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Represent every token.

        Args:
            tokens: `[B, T]`, ids; one that there is not gives NaN in its row.
            where: `[B, T]`, which tokens are real. What the others are has no
                influence. `None` for all.
            token_types: `[B, T]`, as `tokens`; `None` for type 0.
            positions: `[B, T]`, the position of each token in its text, as `tokens`;
                `None` for 0, ..., T - 1, which is faster.
            segments: `[B, T]`, which of several texts in a row a token belongs to, 0
                for none of them: tokens attend to those of their own text only. `None`
                for one text. `zlpr_jax.training.pack_rows` says which texts to put into
                a row; each has its own `positions`.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            `[B, T, D]`, in the dtype of the parameters.

        Raises:
            ValueError: If T is more than `max_length` and no positions are given.
        """
        length = tokens.shape[1]
        if positions is None and length > self.config.max_length:
            raise ValueError(
                f"{length} tokens, but the encoder was made for max_length = "
                f"{self.config.max_length}: cut the texts."
            )
        if segments is not None:
            if where is not None:
                segments = jnp.where(where, segments, 0)
            where = segments != 0
        x = _rows(self.tokens[...], tokens, where)
        types = self.token_types[...]
        if token_types is None:
            x = x + types[None, :1]
        else:
            x = x + _rows(types, token_types, where)
        if self.positions is not None:
            table = self.positions[...]
            if positions is None:
                x = x + table[None, :length]
            else:
                x = x + _rows(table, positions, where)
        x = self.norm(x)
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        if keys[0] is not None:
            x = self.dropout(x, deterministic=False, rngs=keys[0])
        mask = None
        if segments is not None:
            mask = segment_mask(segments)
        elif where is not None:
            mask = jnp.broadcast_to(where[:, None], (len(where), length, length))
        places = Places(positions, positions)
        return self.stack(x, mask=mask, places=places, key=keys[1])

    def pooled(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """Represent each text: `tanh(W h_0 + b)`, from its first token.

        Raises:
            ValueError: If the configuration has no pooler.
        """
        if self.pooler is None:
            raise ValueError("there is no pooler: set pooler=True in the config.")
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def masked_logits(self, hidden: Float[Array, "B M D"]) -> Float[Array, "B M V"]:
        """Score every token for each of some positions.

        Args:
            hidden: `[B, M, D]`, what the encoder gives for them.

        Returns:
            Logits `[B, M, vocabulary]`, float32 at least.

        Raises:
            ValueError: If the configuration has no masked head.
        """
        if self.masked_head is None:
            raise ValueError("there is no masked head: set masked_head=True.")
        return self.masked_head(hidden, self.tokens[...])


class MaskedHead(nnx.Module):
    """Logits of masked tokens: `norm(f(W h)) E^T + b`, with E the embedding."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        self.hidden = nnx.Linear(config.width, config.width, rngs=rngs)
        self.norm = LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocabulary))

    def __call__(
        self, hidden: Float[Array, "B M D"], embedding: Float[Array, "V D"]
    ) -> Float[Array, "B M V"]:
        """Score every token."""
        x = self.norm(self.activation(self.hidden(hidden)))
        dtype = np.promote_types(x.dtype, np.float32)
        logits = jnp.einsum("bmd,vd->bmv", x, embedding, preferred_element_type=dtype)
        return logits + self.bias[...].astype(dtype)[None, None]


def _table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param[Array]:
    # not nnx.Embed, whose dtype is fixed when it is made
    init = jax.nn.initializers.truncated_normal(0.02)
    return nnx.Param(init(rngs.params(), (rows, width)))


def _rows(
    table: Float[Array, "V D"], ids: Int[Array, "B T"], where: Bool[Array, "B T"] | None
) -> Float[Array, "B T D"]:
    if where is not None:
        ids = jnp.where(where, ids, 0)
    # jnp.take would wrap -1 around
    rows = table.at[ids]
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _block(config: BertConfig, rngs: nnx.Rngs) -> Block:
    width, heads = config.width, config.heads
    relative = config.distance if config.positions == "relative" else None
    scores = DotProductScores(
        width,
        heads,
        rotary=config.positions == "rotary",
        relative=relative,
        use_bias=True,
        rngs=rngs,
    )
    attention = Attention(
        width,
        heads,
        [scores],
        relative=relative,
        use_bias=True,
        dropout=config.attention_dropout,
        rngs=rngs,
    )
    return Block(
        width,
        config.hidden,
        attention,
        activation=ACTIVATIONS[config.activation],
        norm="post",
        epsilon=config.epsilon,
        dropout=config.dropout,
        rngs=rngs,
    )
