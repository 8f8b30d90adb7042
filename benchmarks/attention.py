"""The attentions of the decoder, beside dot-product: training, memory and decoding.

    JAX_PLATFORMS=cpu python benchmarks/attention.py [--only NAME ...] [--json]

Training is a step (loss and gradients) of a decoder of two layers, 512 wide, with 8
heads and 1,000 tokens in its vocabulary; a batch has 2,048 tokens. Decoding is of a
decoder of six layers with a vocabulary of 8,000: 128 tokens after a prompt of 32. The
peer there is GPT-2 of Hugging Face's transformers in torch, of the same size, with as
many threads.
"""

import logging
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _command import run_figures
from _measure import (
    MIB,
    AtLeast,
    Program,
    Row,
    Settings,
    absent,
    medians,
    ratio,
    short,
)
from flax import nnx

from zlpr_jax.models.decoder import COMPONENTS, GREEDY, Decoder, DecoderConfig
from zlpr_jax.models.generation import make_generate, prompt_buckets
from zlpr_jax.nn import Attention, functionalize

TOKENS = 2048  # of a batch
VARIANTS = [*((name,) for name in COMPONENTS), ("dense", "dot"), ("random", "dot")]
PROMPT, NEW = 32, 128


class FusedAttention(Attention):
    """Dot-product attention by `jax.nn.dot_product_attention`."""

    def attend(self, x, memory, *, mask=None, places=None, key=None):
        """As in `Attention`; the mask is causal, nothing is dropped."""
        assert key is None
        scores = self.scores[0]
        queries = scores.query(x).reshape(memory.values.shape)
        y = jax.nn.dot_product_attention(
            queries, memory.keys[0], memory.values, is_causal=True
        )
        return self.output(y.reshape(x.shape))


def training(attention: tuple[str, ...], length: int, quick: bool) -> Program:
    """A training step of a decoder."""
    config = DecoderConfig(
        vocabulary=1000,
        max_length=length,
        width=64 if quick else 512,
        layers=2,
        heads=8,
        attention=("dot",) if attention == ("jax.nn",) else attention,
    )
    model = Decoder(config, rngs=nnx.Rngs(0))
    if attention == ("jax.nn",):
        model.stack.blocks.attention.__class__ = FusedAttention
    apply, params, state = functionalize(model)
    rows = max(1, (512 if quick else TOKENS) // length)
    tokens = np.random.default_rng(0).integers(0, 1000, (rows, length + 1))

    def loss(params, tokens):
        logits, _ = apply(params, state, tokens[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return losses.mean()

    return Program(jax.value_and_grad(loss), params, jnp.asarray(tokens, jnp.int32))


def train_rows(
    settings: Settings, variants: list[tuple[str, ...]], lengths: tuple[int, ...]
) -> list[Row]:
    rows = []
    for length in lengths:
        names = {"+".join(variant): variant for variant in [("dot",), *variants]}
        programs = {
            name: training(variant, length, settings.quick)
            for name, variant in names.items()
        }
        repeats = settings.repeats or 11
        times = medians(dict(programs), repeats)
        for name in names:
            if name == "dot":
                continue
            temp = {key: short(programs[key].temp_mib) for key in (name, "dot")}
            what = f"dot; temporary memory {temp[name]} / {temp['dot']} MiB"
            part = f"{name}, T {length}"
            rows.append(ratio(times[name], times["dot"], "ms", what, part))
    return rows


def random_train_time_vs_dot(settings: Settings) -> list[Row]:
    """Training step of Random over that of dot-product, T = 512."""
    return headline(settings, ("random",))


def dense_train_time_vs_dot(settings: Settings) -> list[Row]:
    """Training step of Dense over that of dot-product, T = 512."""
    return headline(settings, ("dense",))


def headline(settings: Settings, variant: tuple[str, ...]) -> list[Row]:
    (row,) = train_rows(settings, [variant], (64,) if settings.quick else (512,))
    return [Row(value=row.value, unit=row.unit, versus=row.versus)]


def train_time_vs_dot(settings: Settings) -> list[Row]:
    """Training step of every variant over that of dot-product."""
    lengths = (32, 64) if settings.quick else (128, 512, 2048)
    variants = [("jax.nn",), *(variant for variant in VARIANTS if variant != ("dot",))]
    return train_rows(settings, variants, lengths)


def decoding(attention: tuple[str, ...], quick: bool) -> tuple[DecoderConfig, Any, Any]:
    config = DecoderConfig(
        vocabulary=100 if quick else 8000,
        max_length=PROMPT + NEW,
        width=64 if quick else 512,
        layers=2 if quick else 6,
        heads=8,
        attention=attention,
    )
    model = Decoder(config, rngs=nnx.Rngs(0))
    return config, *functionalize(model)[1:]


def generator(
    config: DecoderConfig, params: Any, state: Any, prompts: np.ndarray
) -> Program:
    graph = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    apply = functionalize(graph, method="generate").apply

    def run(params, state, tokens):
        where, key = jnp.ones(tokens.shape, bool), jax.random.key(0)
        return apply(params, state, tokens, where, key=key, new=NEW, sampling=GREEDY)[0]

    return Program(run, params, state, jnp.asarray(prompts))


def prompts_of(rows: int, vocabulary: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(1, vocabulary, (rows, PROMPT)).astype(np.int32)


def decode_vs_hf_gpt2_b1(settings: Settings) -> list[Row]:
    """Time of GPT-2 over ours, one prompt."""
    return [decode_vs_hf(settings, 1)]


def decode_vs_hf_gpt2_b8(settings: Settings) -> list[Row]:
    """Time of GPT-2 over ours, eight prompts."""
    return [decode_vs_hf(settings, 8)]


def decode_vs_hf(settings: Settings, rows: int) -> Row:
    try:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel
    except ModuleNotFoundError as error:
        return absent("ratio", f"{error.name} is not installed")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config, params, state = decoding(("dot",), settings.quick)
    peer = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocabulary,
            n_positions=config.max_length,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    prompts = prompts_of(rows, config.vocabulary)
    ours = generator(config, params, state, prompts)
    tokens = torch.from_numpy(prompts).long()

    def theirs() -> None:
        with torch.inference_mode():
            found = peer.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                pad_token_id=0,
            )
        assert found.shape == (rows, PROMPT + NEW)

    times = medians({"ours": ours, "theirs": theirs}, settings.repeats or 7)
    rate = {name: rows * NEW / time * 1e3 for name, time in times.items()}
    weights = sum(array.nbytes for array in jax.tree.leaves(params))
    speed = weights / (times["ours"] / 1e3 / (NEW + 1)) / 1e9
    versus = (
        f"{short(rate['ours'])} / {short(rate['theirs'])} tokens/s, GPT-2 in torch "
        f"{torch.__version__}; ours reads weights at {short(speed)} GB/s"
    )
    return Row(value=times["theirs"] / times["ours"], unit="ratio", versus=versus)


def decode_time_vs_dot(settings: Settings) -> list[Row]:
    """Decoding with every variant over dot-product, and what it remembers."""
    found = []
    for rows in (1, 8):
        programs, remembered = {}, {}
        for variant in VARIANTS:
            name = "+".join(variant)
            config, params, state = decoding(variant, settings.quick)
            prompts = prompts_of(rows, config.vocabulary)
            programs[name] = generator(config, params, state, prompts)
            remembered[name] = memory_mib(config, rows)
        times = medians(dict(programs), settings.repeats or 3)
        for name, time in times.items():
            rate = {key: short(rows * NEW / times[key] * 1e3) for key in (name, "dot")}
            versus = (
                f"{rate[name]} / {rate['dot']} tokens/s; remembers "
                f"{short(remembered[name])} / {short(remembered['dot'])} MiB"
            )
            value = time / times["dot"]
            part = f"{name}, {rows} prompts"
            found.append(Row(value=value, unit="ratio", versus=versus, part=part))
    return found


def memory_mib(config: DecoderConfig, rows: int) -> float:
    """What the decoder remembers of the texts."""

    def begin() -> Any:
        model = Decoder(config, rngs=nnx.Rngs(0))
        tokens, lengths = jnp.zeros((rows, PROMPT), int), jnp.full(rows, PROMPT)
        return model.begin(tokens, lengths, room=PROMPT + NEW)[1].memories

    arrays = jax.tree.leaves(jax.eval_shape(begin))
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays) / MIB


def decode_compilations(settings: Settings) -> list[Row]:
    """Programs compiled for 20 prompts of 20 lengths."""
    config = DecoderConfig(vocabulary=50, max_length=128, width=32, layers=1)
    _, params, state = functionalize(Decoder(config, rngs=nnx.Rngs(0)))
    generate = make_generate(config, new=8)
    log = Messages()
    logging.getLogger("jax").addHandler(log)
    with jax.log_compiles():
        for length in range(6, 121, 6):
            generate(params, state, [[1] * length])
    logging.getLogger("jax").removeHandler(log)
    compiled = [text for text in log.texts if "XLA compilation of jit(run)" in text]
    versus = f"buckets {prompt_buckets(config.max_length)}, prompts of 6 to 120 tokens"
    return [Row(value=len(compiled), unit="programs", versus=versus)]


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


FIGURES: dict[Callable[[Settings], Any], float | None] = {
    random_train_time_vs_dot: 0.9,
    dense_train_time_vs_dot: 1.1,
    train_time_vs_dot: None,
    decode_vs_hf_gpt2_b1: AtLeast(1.3),
    decode_vs_hf_gpt2_b8: AtLeast(2.0),
    decode_time_vs_dot: None,
    decode_compilations: 4,
}

if __name__ == "__main__":
    run_figures("attention", __doc__, FIGURES)
