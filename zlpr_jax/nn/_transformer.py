"""Transformer blocks, one or a stack of equal ones."""

import operator
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from zlpr_jax._typing import PyTree
from zlpr_jax.nn._attention import SELF, Attention, Memory
from zlpr_jax.nn._norm import LayerNorm
from zlpr_jax.nn._positions import Places
from zlpr_jax.nn._rows import keep_rows


class Block(nnx.Module):
    """A transformer block: attention, then two linear layers, each with a residual.

        pre:   x = x + f(norm(x))         post:  x = norm(x + f(x))

    Args:
        width: D, of the tokens.
        hidden: Width between the two linear layers.
        attention: What tokens attend to each other with.
        activation: Between the two linear layers.
        norm: Where layer normalisation stands, "pre" or "post".
        epsilon: Of layer normalisation.
        dropout: Share of what both parts add that is dropped in training, in [0, 1).
        rngs: For initialisation.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        attention: Attention,
        *,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        norm: Literal["pre", "post"] = "pre",
        epsilon: float = 1e-5,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.attention, self.activation, self.norm = attention, activation, norm
        self.hidden = nnx.Linear(width, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, width, rngs=rngs)
        self.attention_norm = LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.output_norm = LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "#B T T"] | None = None,
        places: Places = SELF,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Let tokens attend to each other; see `Attention`.

        Args:
            x: `[B, T, D]`.
            mask: As in `Attention`.
            places: As in `Attention`.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            `[B, T, D]`.
        """
        return self.remember_and_attend(x, mask=mask, places=places, key=key)[0]

    def remember_and_attend(
        self,
        x: Float[Array, "B T D"],
        *,
        memory: Callable[[Memory], Memory] = lambda new: new,
        mask: Bool[Array, "#B T S"] | None = None,
        places: Places = SELF,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Memory]:
        """Let tokens attend to what is remembered.

        Args:
            x: `[B, T, D]`.
            memory: From what must be known of these tokens to all that they attend to;
                by default they attend to each other.
            mask: As in `Attention`, for S remembered tokens.
            places: As in `Attention`.
            key: Randomness for dropout.

        Returns:
            `[B, T, D]`, and what `memory` gave.
        """
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        pre = self.norm == "pre"
        y = self.attention_norm(x) if pre else x
        known = memory(self.attention.remember(y, places))
        y = self.attention.attend(y, known, mask=mask, places=places, key=keys[2])
        x = x + self._drop(y, keys[0])
        x = x if pre else self.attention_norm(x)
        y = self.output_norm(x) if pre else x
        # computed again in the backward pass: gelu would keep four arrays for it
        activation = jax.checkpoint(self.activation, prevent_cse=False)
        y = self.output(activation(self.hidden(y)))
        x = x + self._drop(y, keys[1])
        return (x if pre else self.output_norm(x)), known

    def _drop(
        self, x: Float[Array, "B T D"], key: Key[Array, ""] | None
    ) -> Float[Array, "B T D"]:
        return x if key is None else self.dropout(x, deterministic=False, rngs=key)


class Stack(nnx.Module):
    """Blocks one after another, their arrays stacked along a first axis.

    They run in one `jax.lax.scan`: compile time does not grow with their number.

    Args:
        layers: How many.
        make: `rngs -> Block`, called once.
        remat: Whether the backward pass computes what is inside of a block again: the
            memory is then that of one block and the inputs of all.
        rngs: For initialisation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from zlpr_jax.nn import Attention, Block, DotProductScores
        >>> def make(rngs):
        ...     scores = [DotProductScores(64, 4, rngs=rngs)]
        ...     attention = Attention(64, 4, scores, rngs=rngs)
        ...     return Block(64, 256, attention, rngs=rngs)
        >>> stack = Stack(3, make, rngs=nnx.Rngs(0))
        >>> stack(jnp.ones((2, 10, 64))).shape
        (2, 10, 64)
    """

    def __init__(
        self,
        layers: int,
        make: Callable[[nnx.Rngs], Block],
        *,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if layers < 1:
            raise ValueError(f"layers must be >= 1, got {layers}.")
        self.layers, self.remat = layers, remat
        keys = jax.random.split(rngs.params(), layers)
        self.blocks = nnx.vmap(lambda key: make(nnx.Rngs(key)))(keys)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "#B T T"] | None = None,
        places: Places = SELF,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Run all blocks; see `Block`."""
        graph, arrays = nnx.split(self.blocks)
        keys = None if key is None else jax.random.split(key, self.layers)

        def step(x: Array, of_layer: tuple[PyTree, Any]) -> tuple[Array, None]:
            arrays, key = of_layer
            block = nnx.merge(graph, arrays)
            return block(keep_rows(x), mask=mask, places=places, key=key), None

        body = jax.checkpoint(step) if self.remat else step
        return jax.lax.scan(body, x, (arrays, keys))[0]

    def unstacked(self) -> list[Block]:
        """The blocks one by one.

        Decoding runs these: a scan would copy each block's arrays for each token.
        """
        graph, arrays = nnx.split(self.blocks)
        return [
            nnx.merge(graph, jax.tree.map(operator.itemgetter(layer), arrays))
            for layer in range(self.layers)
        ]
