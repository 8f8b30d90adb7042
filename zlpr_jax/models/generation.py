"""Generation for prompts of any length, with few compilations."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from zlpr_jax._typing import PyTree
from zlpr_jax.models._sampling import Sampling, choose_tokens
from zlpr_jax.models.decoder import GREEDY, Decoder, DecoderConfig
from zlpr_jax.nn import functionalize

__all__ = ["Sampling", "choose_tokens", "make_generate", "prompt_buckets"]


def make_generate(
    config: DecoderConfig,
    *,
    new: int,
    sampling: Sampling = GREEDY,
    stop: Sequence[int] = (),
) -> Callable[..., list[list[int]]]:
    """Build `(params, state, prompts, *, key) -> texts`.

    Prompts are padded to one of `prompt_buckets(config.max_length)`, so that a number
    of prompts is compiled for once for each of these lengths at most.

    Args:
        config: The model that parameters and state are of.
        new: Tokens to add at most, >= 1.
        sampling: How tokens are chosen.
        stop: Tokens that end a text; they are the last of what is given.

    Returns:
        A function of parameters, state, prompts (lists of ids) and a key, which is only
        needed where tokens are sampled. It gives the new tokens of each prompt.

        It raises `ValueError` if there is no prompt, or one is empty, has an id that is
        not in the vocabulary, or is too long to be followed by `new` tokens.

    Raises:
        ValueError: If `new` is not in [1, max_length - 1], or the sampling does not fit
            the vocabulary.

    Examples:
        >>> config = DecoderConfig(vocabulary=50, max_length=32, width=32, layers=1)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> _, params, state = functionalize(model)
        >>> generate = make_generate(config, new=4)
        >>> [len(text) for text in generate(params, state, [[1, 2, 3], [7]])]
        [4, 4]
    """
    if not 1 <= new < config.max_length:
        raise ValueError(
            f"new must lie in [1, {config.max_length - 1}], which leaves room for a "
            f"prompt, got {new}."
        )
    sampling.check(config.vocabulary)
    buckets = prompt_buckets(config.max_length)
    graph = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    apply = functionalize(graph, method="generate").apply

    @jax.jit
    def run(params, state, tokens, where, key):
        return apply(
            params,
            state,
            tokens,
            where,
            key=key,
            new=new,
            sampling=sampling,
            stop=tuple(stop),
        )[0]

    def generate(
        params: PyTree,
        state: PyTree,
        prompts: Sequence[Sequence[int]],
        *,
        key: Key[Array, ""] | None = None,
    ) -> list[list[int]]:
        if key is None:
            if not sampling.greedy:
                raise ValueError("sampling needs a key: give key=jax.random.key(seed).")
            key = jax.random.key(0)
        if not len(prompts):
            raise ValueError("there is no prompt to go on with: give at least one.")
        for prompt in prompts:
            _check(prompt, config, new)
        longest = max(len(prompt) for prompt in prompts)
        width = next(bucket for bucket in buckets if bucket >= longest)
        tokens = np.zeros((len(prompts), width), np.int32)
        where = np.zeros((len(prompts), width), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            where[row, : len(prompt)] = True
        found = jax.device_get(
            run(params, state, jnp.asarray(tokens), jnp.asarray(where), key)
        )
        return [
            text[:length].tolist()
            for text, length in zip(found.tokens, found.lengths, strict=True)
        ]

    return generate


def prompt_buckets(max_length: int) -> tuple[int, ...]:
    """Lengths that prompts are padded to: powers of two from 16, and the longest.

    Examples:
        >>> prompt_buckets(100)
        (16, 32, 64, 100)
    """
    lengths, length = [], 16
    while length < max_length:
        lengths.append(length)
        length *= 2
    return (*lengths, max_length)


def _check(prompt: Sequence[int], config: DecoderConfig, new: int) -> None:
    if not 1 <= len(prompt) <= config.max_length - new:
        raise ValueError(
            f"a prompt must have between 1 and {config.max_length - new} tokens, which "
            f"leaves room for {new} of {config.max_length}, got {len(prompt)}: cut it, "
            "or ask for fewer new tokens."
        )
    if not 0 <= min(prompt) <= max(prompt) < config.vocabulary:
        raise ValueError(
            f"a prompt's ids must lie in [0, {config.vocabulary - 1}], got "
            f"{min(prompt)} to {max(prompt)}."
        )
