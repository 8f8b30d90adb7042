"""A causal language model with any attention of the Synthesizer family."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from zlpr_jax._checks import is_concrete
from zlpr_jax.models._decoder_config import COMPONENTS as COMPONENTS
from zlpr_jax.models._decoder_config import Component as Component
from zlpr_jax.models._decoder_config import DecoderConfig, check_at_least, make_block
from zlpr_jax.models._sampling import Sampling, choose_tokens
from zlpr_jax.nn import (
    Block,
    LayerNorm,
    Memory,
    Places,
    Stack,
    causal_mask,
    segment_mask,
)

GREEDY = Sampling(greedy=True)


class DecoderState(NamedTuple):
    """What a decoder remembers of the texts it goes on with.

    Attributes:
        memories: For each layer, with room for S tokens; token t of a text is at t.
            Their arrays are `[B, H, d, S]`.
        lengths: `[B]`, tokens of each text so far.
    """

    memories: list[Memory]
    lengths: Int[Array, " B"]


class Generated(NamedTuple):
    """What `Decoder.generate` adds to texts.

    Attributes:
        tokens: int32 `[B, new]`; 0 behind the end of a text.
        lengths: int32 `[B]`, tokens of each, a stop token included.
    """

    tokens: Int[Array, "B new"]
    lengths: Int[Array, " B"]


class Decoder(nnx.Module):
    """A causal language model: embedding, transformer blocks, output layer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> config = DecoderConfig(
        ...     vocabulary=100, max_length=32, width=64, layers=2, attention=("random",)
        ... )
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.zeros((2, 10), int)
        >>> model(tokens).shape
        (2, 10, 100)
        >>> logits, state = model.begin(tokens, jnp.array([10, 7]), room=16)
        >>> logits.shape, model.extend(tokens[:, :1], state)[0].shape
        ((2, 100), (2, 1, 100))

    References:
        Tay et al., "Synthesizer: Rethinking Self-Attention for Transformer Models",
        https://arxiv.org/abs/2005.00743
        Radford et al., "Language models are unsupervised multitask learners", 2019.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal = jax.nn.initializers.normal(0.02)
        width = config.width
        # not nnx.Embed, whose dtype is fixed when it is made
        self.embedding = nnx.Param(normal(rngs.params(), (config.vocabulary, width)))
        self.positions = (
            nnx.Param(normal(rngs.params(), (config.max_length, width)))
            if config.positions == "learned"
            else None
        )
        self.stack = Stack(
            config.layers,
            functools.partial(make_block, config),
            remat=config.remat,
            rngs=rngs,
        )
        pre = config.norm == "pre"
        self.norm = LayerNorm(width, rngs=rngs) if pre else None
        self.output = (
            None
            if config.tied
            else nnx.Linear(width, config.vocabulary, use_bias=False, rngs=rngs)
        )
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Score every token as the next one, after each token.

        Args:
            tokens: `[B, T]`, ids.
            positions: `[B, T]`, the position of each token in its text, consecutive
                within a segment; `None` for 0, ..., T - 1, which is faster.
            segments: `[B, T]`: tokens attend to those of their own segment only, and 0
                is padding, which is not between tokens of one segment. `None` for one
                segment.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            Logits `[B, T, vocabulary]`, float32 at least.

        Raises:
            ValueError: If T is more than `max_length`.
        """
        length = tokens.shape[1]
        self._check_length(length)
        mask = causal_mask(length)
        if segments is not None:
            mask = mask & segment_mask(segments)
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = self._embed(tokens, positions)
        if keys[0] is not None:
            x = self.dropout(x, deterministic=False, rngs=keys[0])
        places = Places(positions, positions)
        return self._logits(self.stack(x, mask=mask, places=places, key=keys[1]))

    def begin(
        self, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], *, room: int
    ) -> tuple[Float[Array, "B V"], DecoderState]:
        """Read prompts, all tokens at once.

        Args:
            tokens: `[B, T]`; row b has `lengths[b]` tokens, and any others after them.
            lengths: `[B]`, in `[1, T]`.
            room: Tokens to remember, at least T.

        Returns:
            The logits after the last token of each prompt `[B, vocabulary]`, and what
            to go on with.

        Raises:
            ValueError: If T is more than `room`, or `room` more than `max_length`, or a
                length is out of range and known before tracing.
        """
        length = tokens.shape[1]
        self._check_length(max(length, room))
        if length > room:
            raise ValueError(f"{length} tokens have no room in {room}: give more room.")
        known = np.asarray(lengths) if is_concrete(lengths) else np.ones(1)
        if known.min() < 1 or known.max() > length:
            raise ValueError(
                f"lengths must lie in [1, {length}], got {known}: each row needs a "
                "token, and no more than there are."
            )
        # tokens behind the prompt's end are seen by none of it
        mask, memories = causal_mask(length), []
        x = self._embed(tokens, None)
        for block in self.stack.unstacked():
            x, memory = block.remember_and_attend(x, mask=mask)
            memories.append(_with_room(_tokens_last(memory), room))
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
        return self._logits(last)[:, 0], DecoderState(memories, lengths)

    def extend(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState,
        blocks: list[Block] | None = None,
    ) -> tuple[Float[Array, "B T V"], DecoderState]:
        """Go on with texts: read T more tokens of each.

        Args:
            tokens: `[B, T]`, those that follow.
            state: What is remembered; a token that it has no room for gives NaN.
            blocks: `stack.unstacked()`, where many calls share it.

        Returns:
            The logits after each of them, and the new state.
        """
        count, length = tokens.shape
        rows = jnp.arange(count)[:, None]
        positions = state.lengths[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        room = state.memories[0].values.shape[-1]
        mask = jnp.arange(room, dtype=jnp.int32)[None, None] <= positions[:, :, None]
        memories = []
        x = self._embed(tokens, positions)
        # such a token is not remembered: no answer rather than a wrong one
        x = jnp.where((positions < room)[..., None], x, jnp.nan)
        for block, memory in zip(
            blocks or self.stack.unstacked(), state.memories, strict=True
        ):
            write = functools.partial(_written, memory, rows, positions)
            x, memory = block.remember_and_attend(
                x, memory=write, mask=mask, places=Places(positions)
            )
            memories.append(_tokens_last(memory))
        return self._logits(x), DecoderState(memories, state.lengths + length)

    def generate(
        self,
        tokens: Int[Array, "B T"],
        where: Bool[Array, "B T"],
        *,
        key: Key[Array, ""],
        new: int,
        sampling: Sampling = GREEDY,
        stop: tuple[int, ...] = (),
    ) -> Generated:
        """Go on with prompts.

        Prompts are read all at once, then one token of each text at a time, in one
        `lax.while_loop` that ends with the last text.

        Args:
            tokens: `[B, T]`, the prompts.
            where: `[B, T]`, which tokens are real: padding may be anywhere, each row
                needs one real token.
            key: Randomness of sampling.
            new: Tokens to add at most, >= 1. A text also ends at `max_length`.
            sampling: How tokens are chosen.
            stop: Tokens that end a text.

        Returns:
            What is added to each.

        Raises:
            ValueError: If `new` is out of range, T is more than `max_length`, or
                sampling or `stop` do not fit the vocabulary.
        """
        check_at_least(1, "new", new)
        sampling.check(self.config.vocabulary)
        if not all(0 <= token < self.config.vocabulary for token in stop):
            raise ValueError(
                f"stop must name tokens in [0, {self.config.vocabulary - 1}], got "
                f"{stop}: () for none."
            )
        count, length = tokens.shape
        # real tokens first: then a token's place in memory is its position
        order = jnp.argsort(~where, axis=1, stable=True)
        tokens = jnp.take_along_axis(tokens, order, axis=1)
        lengths = where.sum(1, dtype=jnp.int32)
        full = self.config.max_length
        room = min(length + new, full)
        rows, blocks = jnp.arange(count), self.stack.unstacked()
        seen = None
        if sampling.repetition_penalty != 1:
            seen = jnp.zeros((count, self.config.vocabulary), bool)
            real = jnp.arange(length, dtype=jnp.int32)[None] < lengths[:, None]
            seen = seen.at[rows[:, None], tokens].max(real)

        class Course(NamedTuple):
            step: Array
            text: Array
            added: Array
            done: Array
            seen: Array | None
            state: DecoderState

        def choose(logits: Array, course: Course) -> Course:
            step, done = course.step, course.done
            chosen = choose_tokens(
                logits, sampling, jax.random.fold_in(key, step), course.seen
            )
            chosen = jnp.where(done, 0, chosen)
            added = course.added + (~done).astype(jnp.int32)
            stopped = jnp.isin(chosen, jnp.array(stop, jnp.int32)) if stop else done
            return Course(
                step + 1,
                course.text.at[:, step].set(chosen),
                added,
                done | stopped | (lengths + added >= full),
                None if course.seen is None else course.seen.at[rows, chosen].set(True),
                course.state,
            )

        def go_on(course: Course) -> Course:
            last = jnp.take(course.text, course.step - 1, axis=1)
            logits, state = self.extend(last[:, None], course.state, blocks)
            return choose(logits[:, 0], course._replace(state=state))

        logits, state = self.begin(tokens, lengths, room=room)
        course = Course(
            jnp.zeros((), jnp.int32),
            jnp.zeros((count, new), jnp.int32),
            jnp.zeros(count, jnp.int32),
            lengths >= full,
            seen,
            state,
        )
        course = jax.lax.while_loop(
            lambda course: (course.step < new) & ~course.done.all(),
            go_on,
            choose(logits, course),
        )
        return Generated(course.text, course.added)

    def attended(self, tokens: Int[Array, "B T"]) -> Float[Array, "layers B H T T"]:
        """Give what each token attends to, per layer and head, float32."""
        x, mask = self._embed(tokens, None), causal_mask(tokens.shape[1])
        shape = (len(tokens), self.config.heads, *mask.shape[1:])
        layers = []
        for block in self.stack.unstacked():
            y = block.attention_norm(x) if block.norm == "pre" else x
            memory = block.attention.remember(y)
            p = block.attention.probabilities(y, memory, mask=mask)
            layers.append(jnp.broadcast_to(p, shape))
            x = block(x, mask=mask)
        return jnp.stack(layers)

    def _embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"] | None
    ) -> Float[Array, "B T D"]:
        # an id or a position that there is not gives NaN
        x = jnp.take(self.embedding[...], tokens, axis=0)
        if self.positions is None:
            return x
        table = self.positions[...]
        if positions is None:
            return x + table[None, : tokens.shape[1]]
        return x + jnp.take(table, positions, axis=0)

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        x = x if self.norm is None else self.norm(x)
        if self.output is None:
            logits = jnp.einsum("btd,vd->btv", x, self.embedding[...])
        else:
            logits = self.output(x)
        return logits.astype(np.promote_types(logits.dtype, np.float32))

    def _check_length(self, length: int) -> None:
        if length > self.config.max_length:
            raise ValueError(
                f"{length} tokens, but the model was made for max_length = "
                f"{self.config.max_length}: cut the text, or make it larger."
            )


def _tokens_last(memory: Memory) -> Memory:
    """`[B, H, d, S]`, as the products of attention read it: nothing is copied for them.

    With tokens before heads, each step would write all of it in another order.
    """
    return jax.tree.map(lambda array: array.transpose(0, 2, 3, 1), memory)


def _with_room(memory: Memory, room: int) -> Memory:
    def pad(array: Float[Array, "B H d T"]) -> Float[Array, "B H d S"]:
        return jnp.pad(array, [(0, 0)] * 3 + [(0, room - array.shape[-1])])

    return jax.tree.map(pad, memory)


def _written(
    memory: Memory, rows: Int[Array, "B 1"], positions: Int[Array, "B T"], new: Memory
) -> Memory:
    """What is remembered `[B, S, H, d]`, with new tokens at their positions."""

    def write(old: Float[Array, "B H d S"], new: Float[Array, "B T H d"]) -> Array:
        return old.at[rows, :, :, positions].set(new).transpose(0, 3, 1, 2)

    return jax.tree.map(write, memory, new)
