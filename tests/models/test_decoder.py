"""The causal language model: against NumPy, cached, packed, sharded."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from tests.models.decoders import (
    HEADS,
    IDS,
    KINDS,
    LAYERS,
    LENGTH,
    LENGTHS,
    MAX,
    PACKED,
    PLACES,
    POSITIONS,
    SEGMENTS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    configuration,
    noisy_decoder,
    runs,
)
from tests.nn import oracles
from zlpr_jax.data.tokens import TokenRows
from zlpr_jax.models.decoder import COMPONENTS, Decoder, DecoderConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import language
from zlpr_jax.training import FitConfig, fit, load_tree, make_mesh, save_tree

GIVEN = jnp.asarray(TOKENS)
each_kind = pytest.mark.parametrize(("attention", "positions"), KINDS, ids=IDS)


# -- Every attention with every position scheme


@each_kind
def test_cached_decoding_is_the_full_forward(attention, positions):
    """Ragged prompts, then token by token."""
    run = runs(attention, positions)
    assert 0.2 < run.logits.std() < 2
    decoded = np.arange(LENGTH) >= LENGTHS[:, None] - 1
    assert decoded.sum() == (LENGTH + 1 - LENGTHS).sum()
    expected = np.where(decoded[..., None], run.logits, 0)
    np.testing.assert_allclose(run.cached, expected, atol=1e-5)


@each_kind
def test_no_token_depends_on_a_later_one(attention, positions):
    influence = runs(attention, positions).influence
    earlier = np.tril(np.ones((LENGTH, LENGTH), bool))
    np.testing.assert_array_equal(influence[~earlier], 0)
    assert (influence[earlier] > 1e-3).all()


@each_kind
def test_padding_and_packing_change_nothing(attention, positions):
    """Padding on either side and in between, and two texts in one row."""
    run = runs(attention, positions)
    for row, texts in enumerate(PLACES):
        for text, places in texts:
            places = list(places)
            if positions == "relative" and np.ptp(places) >= len(places):
                continue  # such texts must stand in one piece
            np.testing.assert_allclose(
                run.packed[row, places], run.logits[text, : len(places)], atol=1e-5
            )
    assert np.isfinite(run.packed).all()


def test_rotary_positions_without_dot_products_are_none():
    for attention in (("dense",), ("random",)):
        rotary, none = (
            noisy_decoder(configuration(attention, positions))
            for positions in ("rotary", "none")
        )
        chex.assert_trees_all_equal(nnx.state(rotary), nnx.state(none))
        jaxprs = {str(jax.make_jaxpr(one)(GIVEN[:1])) for one in (rotary, none)}
        assert len(jaxprs) == 1


@pytest.mark.parametrize(
    ("attention", "positions"),
    [(("dot",), "rotary"), (("dense", "dot"), "relative"), (("random",), "learned")],
)
def test_gradients_with_padding_are_finite(attention, positions):
    """And those of padding are 0, whatever stands there."""
    model = noisy_decoder(configuration(attention, positions))
    apply, params, state = functionalize(model)
    real = SEGMENTS > 0

    def loss(params, tokens):
        logits, _ = apply(
            params,
            state,
            tokens,
            positions=jnp.asarray(POSITIONS),
            segments=jnp.asarray(SEGMENTS),
        )
        return jnp.where(real[..., None], logits**2, 0).mean()

    grad = oracles.jit(jax.grad(loss))
    clean = grad(params, jnp.asarray(np.where(real, PACKED, 0)))
    dirty = grad(params, jnp.asarray(np.where(real, PACKED, VOCABULARY - 1)))
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_close(dirty, clean, atol=1e-6)
    np.testing.assert_array_equal(clean["embedding"][0], 0)
    assert (clean["embedding"][PACKED[real]] != 0).any(-1).all()


def test_past_the_distance_of_nezha():
    """Cached, at T = 200, where relative positions are clipped at 64."""
    config = configuration(
        ("random", "dot"), "relative", max_length=200, distance=64, width=8, layers=1
    )
    model = noisy_decoder(config)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, 200))
    tokens, lengths = jnp.asarray(tokens, jnp.int32), jnp.array([120, 90])

    def program(tokens):
        first, state = model.begin(tokens[:, :120], lengths, room=200)

        def step(state, _):
            last = jnp.take_along_axis(tokens, state.lengths[:, None], axis=1)
            logits, state = model.extend(last, state)
            return state, logits[:, 0]

        return model(tokens), first, jax.lax.scan(step, state, length=80)[1]

    whole, first, others = oracles.jit(program)(tokens)
    for row, start in enumerate([120, 90]):
        cached = np.concatenate([first[row : row + 1], others[:, row]])
        np.testing.assert_allclose(
            cached, whole[row, start - 1 : start + 80], atol=1e-5
        )


# -- Against NumPy


@pytest.mark.parametrize(
    ("positions", "norm", "tied"),
    [
        ("learned", "pre", True),
        ("rotary", "post", False),
        ("relative", "pre", False),
        ("none", "post", True),
    ],
)
def test_decoder_agrees_with_numpy(positions, norm, tied):
    config = configuration(("random", "dot"), positions, norm=norm, tied=tied)
    with jax.enable_x64(True):
        model = noisy_decoder(config, np.float64)
        got = oracles.jit(model.__call__)(GIVEN)
        assert got.dtype == jnp.float64
    w = oracles.weights(model)
    x = w["embedding"][TOKENS]
    x = x + (w["positions"][:LENGTH] if positions == "learned" else 0)
    slots = np.tile(np.arange(LENGTH), (len(TOKENS), 1))
    mask = np.tril(np.ones((1, 1, LENGTH, LENGTH), bool))
    relative = 3 if positions == "relative" else None

    def attended(x, w):
        random, dot = w["scores"][0], w["scores"][1]
        logits = [
            oracles.by_position(random["matrix"][None], slots),
            oracles.dot_logits(
                dot, x, HEADS, slots, rotary=positions == "rotary", relative=relative
            ),
        ]
        return oracles.attention(w, x, logits, mask, slots, relative=relative)

    def network(x, w):
        return oracles.linear(oracles.gelu(oracles.linear(x, w["hidden"])), w["output"])

    for layer in range(LAYERS):
        of = jax.tree.map(lambda array: array[layer], w["stack"]["blocks"])
        for part, name in ((attended, "attention_norm"), (network, "output_norm")):
            inner = of["attention"] if part is attended else of
            norm_of = lambda x, name=name, of=of: oracles.layer_norm(x, of[name], 1e-5)
            if norm == "pre":
                x = x + part(norm_of(x), inner)
            else:
                x = norm_of(x + part(x, inner))
    x = oracles.layer_norm(x, w["norm"], 1e-5) if norm == "pre" else x
    head = w["embedding"].T if tied else w["output"]["kernel"]
    np.testing.assert_allclose(got, x @ head, atol=1e-10)


def test_what_is_attended():
    config = configuration(("random", "dot"))
    model = noisy_decoder(config)
    got = oracles.jit(model.attended)(TOKENS[:3])
    chex.assert_shape(got, (LAYERS, 3, HEADS, LENGTH, LENGTH))
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-5)
    assert (got[..., ~np.tril(np.ones((LENGTH, LENGTH), bool))] == 0).all()
    # of the first layer, by hand
    w = oracles.weights(model)
    x = w["embedding"][TOKENS[:3]] + w["positions"][:LENGTH]
    of = jax.tree.map(lambda array: array[0], w["stack"]["blocks"])
    x = oracles.layer_norm(x, of["attention_norm"], 1e-5)
    slots = np.tile(np.arange(LENGTH), (3, 1))
    scores = of["attention"]["scores"]
    e = np.exp(of["attention"]["mixture"])
    alpha = (e / e.sum(0))[:, None, :, None, None]
    logits = alpha[0] * oracles.by_position(scores[0]["matrix"][None], slots)
    logits = logits + alpha[1] * oracles.dot_logits(scores[1], x, HEADS, slots)
    mask = np.tril(np.ones((1, 1, LENGTH, LENGTH), bool))
    np.testing.assert_allclose(got[0], oracles.attended(logits, mask), atol=1e-5)


# -- What is remembered


@pytest.mark.parametrize(
    "attention", [(one,) for one in COMPONENTS] + [("dense", "dot")]
)
def test_memory(attention):
    model = nnx.eval_shape(lambda: Decoder(configuration(attention), rngs=nnx.Rngs(0)))
    _, state = nnx.eval_shape(
        lambda model: model.begin(GIVEN[:, :3], jnp.asarray(LENGTHS), room=10), model
    )
    assert len(state.memories) == LAYERS
    shape = (len(TOKENS), HEADS, WIDTH // HEADS, 10)
    for memory in state.memories:
        chex.assert_shape(memory.values, shape)
        assert len(memory.keys) == len(attention)
        for name, keys in zip(attention, memory.keys, strict=True):
            if name == "dot":
                chex.assert_shape(keys, shape)
            else:
                assert keys is None
    arrays = len(jax.tree.leaves(state.memories))
    assert arrays == LAYERS * (2 if "dot" in attention else 1)


def test_many_tokens_at_once():
    """As in a dialogue: what the other one says is read in one piece."""
    for attention, positions in (
        (("random", "dot"), "relative"),
        (("dense",), "learned"),
    ):
        model = noisy_decoder(configuration(attention, positions))
        start = jnp.array([2, 1])

        @oracles.jit
        def program(tokens):
            _, state = model.begin(tokens[:, :2], start, room=LENGTH)
            pieces = []
            for size in (3, 2):
                places = state.lengths[:, None] + jnp.arange(size)[None]
                piece = jnp.take_along_axis(tokens, places, axis=1)
                logits, state = model.extend(piece, state)
                pieces.append(logits)
            return jnp.concatenate(pieces, axis=1), state.lengths

        got, lengths = program(TOKENS[:2])
        expected = runs(attention, positions).logits
        for row, first in enumerate((2, 1)):
            np.testing.assert_allclose(
                got[row], expected[row, first : first + 5], atol=1e-5
            )
        np.testing.assert_array_equal(lengths, [7, 6])


# -- Length


@pytest.mark.parametrize("attention", [("dot",), ("random",)])
def test_more_tokens_than_the_model_takes(attention):
    model = noisy_decoder(configuration(attention, "none"))
    tokens = jnp.zeros((2, MAX + 1), jnp.int32)
    lengths = jnp.array([1, 1])
    message = f"{MAX + 1} tokens, but the model was made for max_length = {MAX}: cut"
    with pytest.raises(ValueError, match=message):
        model(tokens)
    with pytest.raises(ValueError, match=message):
        model.begin(tokens, lengths, room=MAX)
    with pytest.raises(ValueError, match=message):
        model.begin(tokens[:, :3], lengths, room=MAX + 1)
    with pytest.raises(ValueError, match="8 tokens have no room in 7: give more room"):
        model.begin(tokens[:, :8], lengths, room=7)


def test_no_room_left():
    """It is only known at run time: NaN, in that row and at that place alone."""
    model = noisy_decoder(configuration(("dot",), "rotary"))

    def program(tokens):
        _, state = model.begin(tokens[:, :4], jnp.array([4, 2]), room=5)
        return model.extend(tokens[:, 4:6], state)[0], model(tokens[:1, :5])

    got, expected = oracles.jit(program)(TOKENS[:2])
    np.testing.assert_allclose(got[0, 0], expected[0, 4], atol=1e-5)
    assert np.isnan(got[0, 1]).all()
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("lengths", [[0, 2], [1, 4], [-1, 1]])
def test_lengths_of_prompts(lengths):
    model = noisy_decoder(configuration())
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 3\], got "):
        model.begin(GIVEN[:2, :3], jnp.array(lengths), room=5)


# -- Dtypes and transformations


def test_bfloat16():
    config = configuration(("dense", "dot"), tied=True)
    exact = noisy_decoder(config)
    half = noisy_decoder(config, jnp.bfloat16)
    run = lambda model: oracles.jit(model.__call__)(TOKENS)
    got = run(half)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, run(exact), atol=0.15)
    _, state = nnx.eval_shape(
        lambda m: m.begin(GIVEN, jnp.asarray(LENGTHS), room=MAX), half
    )
    chex.assert_type(jax.tree.leaves(state.memories), jnp.bfloat16)


def test_jit_is_eager():
    for attention, positions in (
        (("random", "dot"), "relative"),
        (("dense",), "learned"),
    ):
        model = noisy_decoder(configuration(attention, positions))
        expected = runs(attention, positions).logits[:2]
        np.testing.assert_allclose(model(GIVEN[:2]), expected, atol=1e-5)


def test_dropout():
    model = noisy_decoder(configuration(dropout=0.3))
    run = oracles.jit(lambda tokens, key=None: model(tokens, key=key))
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(run(TOKENS, keys[0]), run(TOKENS, keys[0]))
    assert (run(TOKENS, keys[0]) != run(TOKENS, keys[1])).any()
    np.testing.assert_allclose(run(TOKENS), runs(("dot",), "learned").logits, atol=1e-5)


def test_rematerialisation_changes_no_gradient():
    grads = []
    for remat in (False, True):
        model = noisy_decoder(configuration(remat=remat))
        apply, params, state = functionalize(model)
        loss = lambda params: (apply(params, state, GIVEN)[0] ** 2).mean()
        grads.append(oracles.jit(jax.value_and_grad(loss))(params))
    chex.assert_trees_all_close(*grads, rtol=1e-4, atol=1e-6)


# -- Configuration


def test_parameters():
    """Every array of the model, counted by hand."""
    for tied in (False, True):
        for positions in ("learned", "relative"):
            for norm in ("pre", "post"):
                config = configuration(
                    ("dense", "dot"), positions, tied=tied, norm=norm
                )
                model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
                D, N = WIDTH, MAX
                dense = D**2 + D + D * N + HEADS * N
                attention = dense + 2 * (D**2 + D) + 2 * HEADS + 2 * (D**2 + D)
                block = attention + (2 * D**2 + 2 * D) + (2 * D**2 + D) + 2 * 2 * D
                expected = LAYERS * block + VOCABULARY * D * (1 if tied else 2)
                expected += N * D if positions == "learned" else 0
                expected += 2 * D if norm == "pre" else 0
                arrays = jax.tree.leaves(nnx.state(model, nnx.Param))
                assert sum(array.size for array in arrays) == expected


def test_initial_models_differ_by_their_seed_alone():
    task = language.make(configuration(("fixed-random", "dot"), layers=1))
    init = oracles.jit(task.init)
    one, same, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    assert (one[0]["embedding"] != other[0]["embedding"]).any()
    (fixed,), (another,) = (jax.tree.leaves(state) for state in (one[1], other[1]))
    assert (fixed != another).any()


def test_configuration_is_json():
    config = configuration(("random", "dot"), hidden=None)
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    again = DecoderConfig(**{**stored, "attention": tuple(stored["attention"])})
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(
            ({name: 0}, f"{name} must be >= 1, got 0")
            for name in (
                "vocabulary",
                "max_length",
                "width",
                "layers",
                "heads",
                "hidden",
                "distance",
                "rank",
            )
        ),
        ({"heads": 3}, "width must be a multiple of heads, got 16 and 3"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"attention": ()}, "attention must name one or more of dot, dense, "),
        ({"attention": ("dot", "dot")}, "each once, got "),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        configuration(**settings)


# -- Training


def test_fixed_random_survives_training(tmp_path):
    """100 steps of AdamW with weight decay, and a file."""
    config = configuration(("fixed-random",), layers=1, tied=True)
    task = language.make(config)
    params, state = task.init(jax.random.key(0))
    (fixed,) = jax.tree.leaves(state)
    chex.assert_shape(fixed, (1, HEADS, MAX, MAX))
    tx = optax.adamw(1e-2, weight_decay=0.1)
    rows = TokenRows(tokens=TOKENS[:, :-1].copy(), targets=TOKENS[:, 1:].copy())
    batch = jax.tree.map(jnp.asarray, task.batch(rows, len(rows)))

    @oracles.jit
    def train(params, state):
        def step(carry, _):
            params, state, moments = carry
            (loss, (state, _)), grads = jax.value_and_grad(task.loss, has_aux=True)(
                params, state, batch, jax.random.key(0)
            )
            updates, moments = tx.update(grads, moments, params)
            return (optax.apply_updates(params, updates), state, moments), loss

        carry, losses = jax.lax.scan(step, (params, state, tx.init(params)), length=100)
        return carry[0], carry[1], losses

    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        trained, after, losses = train(params, state)
    assert losses[-1] < losses[0] / 2
    chex.assert_trees_all_equal(after, state)
    assert (trained["embedding"] != params["embedding"]).all()
    path = tmp_path / "state.safetensors"
    save_tree(path, after)
    like = jax.tree.map(jnp.zeros_like, state)
    chex.assert_trees_all_equal(load_tree(path, like), state)


def test_eight_devices_train_as_one():
    config = configuration(("fixed-random", "dot"), width=64, hidden=256, tied=True)
    task = language.make(config)
    initial = oracles.jit(task.init)(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 9, (48, LENGTH)).astype(np.int32)
    rows = TokenRows(tokens=tokens, targets=np.roll(tokens, -1, axis=1))
    settings = FitConfig(steps=20, batch_size=16, report_every=1)

    def losses(mesh):
        found = []
        result = fit(
            task,
            adaxw(1e-2),
            rows,
            settings,
            initial=initial,
            mesh=mesh,
            report=lambda progress: found.append(progress.metrics["loss"]),
        )
        return found, result

    mesh = make_mesh(data=4, fsdp=2)
    one, _ = losses(None)
    eight, result = losses(mesh)
    kernel = result.params["stack"]["blocks"]["hidden"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, None, "fsdp")
    assert len(one) == 20
    assert one[-1] < one[0] - 0.3
    np.testing.assert_allclose(eight, one, atol=1e-4)
