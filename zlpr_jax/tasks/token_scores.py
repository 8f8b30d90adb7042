"""How well tokens were predicted, of language models and of masked ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from zlpr_jax._errors import InputError


class RowScore(NamedTuple):
    """How well the targets of one row were predicted.

    Attributes:
        nats: The sum of `-log p(target)`.
        tokens: How many targets count.
        hits: How many of them had the highest score.
    """

    nats: Any
    tokens: Any
    hits: Any


class Terms(NamedTuple):
    """What is known of every target, `[B, T]` each.

    Attributes:
        nats: Its loss `-log p(target)`; 0 if it does not count.
        hits: Whether it counts and has the highest score.
        where: Whether it counts.
    """

    nats: Float[Array, "B T"]
    hits: Bool[Array, "B T"]
    where: Bool[Array, "B T"]

    @classmethod
    def of(
        cls,
        logits: Float[Array, "B T C"],
        targets: Int[Array, "B T"],
        where: Bool[Array, "B T"],
    ) -> "Terms":
        """Compare logits with targets, in float32 at least."""
        logits = logits.astype(np.promote_types(logits.dtype, np.float32))
        labels = jnp.where(where, targets, 0)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = where & (logits.argmax(-1) == labels)
        return cls(jnp.where(where, nats, 0), hits, where)

    def loss(self) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        """The mean loss of those that count, 0 if none does, and metrics."""
        total = self.nats.sum()
        count, right = (x.sum().astype(total.dtype) for x in (self.where, self.hits))
        metrics = {"loss": (total, count), "accuracy": (right, count)}
        return total / jnp.maximum(count, 1), metrics

    def rows(self) -> RowScore:
        """What is kept of each row, so that no logits are."""
        return RowScore(self.nats.sum(-1), self.where.sum(-1), self.hits.sum(-1))


def decode_rows(outputs: RowScore, records: Sequence[Any]) -> list[RowScore]:
    """One `RowScore` for each record, without the rows that fill a batch."""
    rows = zip(*outputs, strict=True)
    return [RowScore(*row) for row, _ in zip(rows, records, strict=False)]


def score_tokens(predictions: Sequence[RowScore], nothing: str) -> dict[str, float]:
    """Loss, perplexity and accuracy of a whole split.

    Args:
        predictions: Of each row.
        nothing: The error if no target counts.

    Raises:
        InputError: If no target counts, or the perplexity is not finite.
    """
    nats, tokens, hits = np.array(predictions, np.float64).reshape(-1, 3).sum(axis=0)
    if not tokens:
        raise InputError(nothing)
    loss = nats / tokens
    with np.errstate(over="ignore"):
        perplexity = np.exp(loss)
    if not np.isfinite(perplexity):
        raise InputError(
            f"the perplexity is not finite (the loss is {loss:g} nats), training has "
            "diverged: lower the learning rate."
        )
    return {
        "loss": float(loss),
        "perplexity": float(perplexity),
        "accuracy": float(hits / tokens),
    }
