"""The choice of the next token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from zlpr_jax._checks import check_interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen from logits.

    In this order: suppressed tokens, repetition penalty, temperature, top-k, top-p.

    Attributes:
        greedy: Take the most likely token; temperature, top_k and top_p do nothing.
        temperature: Divides the logits, > 0.
        top_k: Only the k most likely tokens, in [1, vocabulary].
        top_p: Only the most likely tokens that have this probability together, in
            (0, 1]; the one that reaches it is among them.
        repetition_penalty: Logits of tokens that the text already has are divided by
            it where positive and multiplied by it where negative, > 0; 1 for none.
        suppress_tokens: Ids that are never chosen.

    References:
        Holtzman et al., "The curious case of neural text degeneration",
        https://arxiv.org/abs/1904.09751 (top-p)
        Keskar et al., "CTRL", https://arxiv.org/abs/1909.05858 (repetition penalty)
    """

    greedy: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self):
        hint = "for the most likely token use greedy."
        check_interval("temperature", self.temperature, "(0, inf)", hint)
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be >= 1, got {self.top_k}.")
        if self.top_p is not None:
            check_interval("top_p", self.top_p, "(0, 1]", "1 keeps all tokens.")
        hint = "1 switches it off."
        check_interval("repetition_penalty", self.repetition_penalty, "(0, inf)", hint)

    def check(self, vocabulary: int) -> None:
        """Raise `ValueError` if `top_k` or a suppressed token does not fit."""
        if self.top_k is not None and self.top_k > vocabulary:
            raise ValueError(
                f"top_k must be at most {vocabulary}, the size of the vocabulary, "
                f"got {self.top_k}."
            )
        wrong = [id_ for id_ in self.suppress_tokens if not 0 <= id_ < vocabulary]
        if wrong or len(set(self.suppress_tokens)) >= vocabulary:
            raise ValueError(
                f"suppress_tokens must be some ids in [0, {vocabulary - 1}], got "
                f"{wrong[0] if wrong else 'all'}."
            )


def choose_tokens(
    logits: Float[Array, "B V"],
    sampling: Sampling,
    key: Key[Array, ""],
    seen: Bool[Array, "B V"] | None = None,
) -> Int[Array, " B"]:
    """Choose a token for each row.

    Args:
        logits: `[B, vocabulary]`.
        sampling: How.
        key: Randomness; the same for all rows, which draw independently.
        seen: `[B, vocabulary]`, tokens for the repetition penalty; `None` for none.

    Returns:
        Ids, int32.

    Raises:
        ValueError: If `top_k` is more than the number of tokens.
    """
    sampling.check(logits.shape[-1])
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    if sampling.suppress_tokens:
        logits = logits.at[:, jnp.array(sampling.suppress_tokens)].set(-jnp.inf)
    if seen is not None:
        penalty = sampling.repetition_penalty
        lower = jnp.where(logits > 0, logits / penalty, logits * penalty)
        logits = jnp.where(seen, lower, logits)
    if sampling.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return jax.random.categorical(key, logits).astype(jnp.int32)
    values, tokens = jax.lax.top_k(logits, sampling.top_k or logits.shape[-1])
    if sampling.top_p is not None:
        # kept: what comes before a token has not reached top_p yet
        probability = jax.nn.softmax(values, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        first = jnp.arange(values.shape[-1])[None] == 0
        values = jnp.where((before < sampling.top_p) | first, values, -jnp.inf)
    choice = jax.random.categorical(key, values)
    return jnp.take_along_axis(tokens, choice[:, None], axis=-1)[:, 0].astype(jnp.int32)
