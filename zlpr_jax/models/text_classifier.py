"""An encoder of texts with a score for every label."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.optim import Factor, layerwise_rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassifierConfig:
    """The shape of a `TextClassifier`.

    Attributes:
        encoder: The shape of the encoder.
        labels: Width of the output.
        pooling: What stands for a text: the mean of its tokens, or the first of them.
        dropout: Share of that dropped in training, in [0, 1).
    """

    encoder: BertConfig
    labels: int
    pooling: Literal["mean", "first"] = "mean"
    dropout: float = 0.1

    def __post_init__(self):
        if self.labels < 1:
            raise ValueError(f"labels must be >= 1, got {self.labels}.")
        if self.pooling not in ("mean", "first"):
            raise ValueError(f"pooling must be mean or first, got {self.pooling!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if self.encoder.pooler or self.encoder.masked_head:
            # they would be decayed by the optimizer, and never be used
            raise ValueError(
                "the encoder of a classifier must have pooler=False and "
                "masked_head=False."
            )


class TextClassifier(nnx.Module):
    """A `Bert`, and a linear layer on what it says of a text: logits out.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from zlpr_jax.models.bert import BertConfig
        >>> encoder = BertConfig(
        ...     vocabulary=100, width=8, layers=1, heads=2, hidden=16, pooler=False
        ... )
        >>> config = TextClassifierConfig(encoder=encoder, labels=5)
        >>> model = TextClassifier(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.array([[7, 8, 9], [5, 6, 0]])
        >>> model(tokens, where=tokens > 0).shape
        (2, 5)
    """

    def __init__(self, config: TextClassifierConfig, *, rngs: nnx.Rngs):
        self.pooling = config.pooling
        self.encoder = Bert(config.encoder, rngs=rngs)
        self.output = nnx.Linear(
            config.encoder.width,
            config.labels,
            kernel_init=jax.nn.initializers.truncated_normal(0.02),
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        where: Bool[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B labels"]:
        """Score every label of every text.

        Args:
            tokens: `[B, T]`, ids.
            where: `[B, T]`, which tokens are real. A text without any has the mean 0.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            Logits `[B, labels]`.
        """
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        hidden = self.encoder(tokens, where=where, key=keys[0])
        if self.pooling == "first":
            pooled = hidden[:, 0]
        else:
            # sums of many tokens: float32 at least
            wide = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
            count = jnp.maximum(where.sum(1, keepdims=True), 1).astype(wide.dtype)
            total = jnp.where(where[..., None], wide, 0).sum(1)
            pooled = (total / count).astype(hidden.dtype)
        if keys[1] is not None:
            pooled = self.dropout(pooled, deterministic=False, rngs=keys[1])
        return self.output(pooled)


def classifier_rules(
    config: TextClassifierConfig, decay: float, rate: float
) -> list[tuple[str, Factor]]:
    """Rules for `zlpr_jax.optim.scale_by_path`: learning rates of the encoder.

    Args:
        config: The shape of the classifier.
        decay: What each layer's learning rate is of that of the next one, in (0, 1].
        rate: What the last layer's is of that of the new output layer, > 0.
    """
    stacks = [
        ("^encoder/stack/", config.encoder.layers),
        ("^encoder/(tokens|positions|token_types|norm)", 0),
    ]
    return layerwise_rules(stacks, decay, rate=rate)
