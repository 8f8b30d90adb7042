"""Encoders: against transformers and NumPy, padding, dtypes, dropout, devices."""

import dataclasses
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.models.berts import (
    POSITIONS,
    STORED,
    TOKENS,
    TYPES,
    WHERE,
    configuration,
    difference,
    golden_bert,
    hidden_states,
    noisy_bert,
    run,
    with_params,
)
from tests.nn import oracles
from zlpr_jax.losses import zlpr_loss
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.training import make_mesh, param_shardings, put_batch
from zlpr_jax.training._mesh import seen_by_modules

each_kind = pytest.mark.parametrize("positions", POSITIONS)


def stored(name):
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in STORED.items()
        if key.startswith(f"{name}/")
    }


# -- Against transformers


@pytest.mark.parametrize("name", ["bert", "bert_tanh", "roformer", "bert_bare"])
def test_encoder_agrees_with_transformers(name):
    got, expected = run(golden_bert(name)), stored(name)
    assert expected.keys() == got.keys()
    for output in expected:
        assert np.abs(expected[output]).max() > 0.5
        assert difference(got, expected, output) <= 2e-5


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"activation": "gelu_tanh"}),
        ("bert_tanh", {"activation": "gelu"}),
        ("bert", {"epsilon": 1e-3}),
        ("bert_tanh", {"epsilon": 1e-12}),
    ],
)
def test_another_activation_or_epsilon_would_be_seen(name, changes):
    got, expected = run(golden_bert(name, **changes)), stored(name)
    errors = [difference(got, expected, output) for output in expected]
    assert min(errors) > 5e-4
    assert max(errors) > 1e-3


# -- Against NumPy


def test_epsilon_counts_where_a_token_is_nearly_constant():
    found = []
    for epsilon in (1e-12, 1e-6):
        with jax.enable_x64(True):
            model = noisy_bert(configuration(epsilon=epsilon, layers=1), np.float64)
            row = 0.5 + 1e-4 * np.random.default_rng(0).normal(size=16)
            others = model.token_types[...][0] + model.positions[...][1]
            model.tokens[...] = model.tokens[...].at[7].set(row - others)
            got = run(model, jnp.array([[3, 7, 4]]), jnp.ones((1, 3), bool), None)
        w = oracles.weights(model)
        expected = hidden_states(
            w, model.config, np.array([[3, 7, 4]]), np.ones((1, 3), bool)
        )
        np.testing.assert_allclose(got["hidden"], expected, atol=1e-9)
        found.append(expected)
    assert np.abs(found[0] - found[1]).max() > 0.1


LONG = np.random.default_rng(0).integers(0, 20, (2, 80)).astype(np.int32)
PRESENT = np.arange(80) < np.array([[80], [71]])


@pytest.mark.parametrize("distance", [64, 2])
def test_nezha_agrees_with_numpy(distance):
    """Past the distance up to which offsets are told apart."""
    config = configuration(positions="relative", distance=distance, max_length=80)
    model = noisy_bert(config)
    got = run(model, LONG, PRESENT, None)["hidden"]
    w = oracles.weights(model)

    def error(config=config, **options):
        expected = hidden_states(w, config, LONG, PRESENT, **options)
        return np.abs(got - expected)[PRESENT].max()

    assert error() <= 2e-5
    assert error(value_side=False) > 1e-2
    assert error(from_offset=True) > 1e-2
    nearer = dataclasses.replace(config, distance=distance - 1)
    assert error(nearer) > 1e-3


# -- Padding


def padded(left, right):
    """The first four tokens of each text, between others."""
    sides = [(0, 0), (left, right)]
    tokens = np.pad(TOKENS[:, :4], sides, constant_values=3)
    types = np.pad(TYPES[:, :4], sides, constant_values=1)
    return tokens, np.pad(np.ones((3, 4), bool), sides), types


@each_kind
def test_padding_has_no_influence(positions):
    model = noisy_bert(configuration(positions=positions))
    program = oracles.jit(
        lambda tokens, where, types: model(tokens, where=where, token_types=types)
    )
    alone = program(*padded(0, 0))
    for left, right in [(0, 5), (5, 0), (2, 3)]:
        tokens, where, types = padded(left, right)
        got = program(tokens, where, types)
        assert np.isfinite(got).all()
        for padding in (19, 20, -1):  # the latter two are no tokens
            others = (np.where(where, x, padding) for x in (tokens, types))
            other_tokens, other_types = others
            other = program(other_tokens, where, other_types)
            np.testing.assert_array_equal(other, got)
        if left == 0 or positions != "learned":
            np.testing.assert_allclose(got[:, left : left + 4], alone, atol=1e-5)
    nothing = program(tokens, np.zeros_like(where), types)
    assert np.isfinite(nothing).all()


@each_kind
def test_texts_may_share_a_row(positions):
    """One row of 3 texts, longer than max_length, gives what 3 rows give."""
    model = noisy_bert(configuration(positions=positions, max_length=7))
    rng = np.random.default_rng(0)
    taken = np.arange(7) < np.array([[7], [3], [6]])
    where = taken.copy()
    where[2, 5] = False  # in the row, but not real
    tokens, types = (
        rng.integers(0, size, where.shape).astype(np.int32) for size in (20, 2)
    )
    alone = run(model, tokens, where, types)["hidden"]

    def packed(array, padding):
        return np.append(array[taken], [padding] * 2)[None].astype(array.dtype)

    text, place = np.indices(where.shape, np.int32)
    together = oracles.jit(model)(
        packed(tokens, -1),
        where=packed(where, True),
        token_types=packed(types, -1),
        positions=packed(place, -1),
        segments=packed(text + 1, 0),
    )
    real = packed(where, False)
    np.testing.assert_allclose(together[real], alone[where], atol=1e-5)
    assert np.isfinite(together).all()


def test_a_position_without_a_row_of_the_table_gives_nan():
    model = noisy_bert(configuration(max_length=4))
    positions = jnp.array([[0, 1, 4], [0, 1, -1], [1, 2, 3]])
    hidden = np.asarray(model(jnp.ones((3, 3), int), positions=positions))
    assert np.isnan(hidden[:2]).any(axis=(1, 2)).all()
    assert np.isfinite(hidden[2]).all()


def test_defaults_are_all_real_and_of_the_first_type():
    model = noisy_bert(configuration())
    zeros, ones = np.zeros_like(TYPES), np.ones_like(WHERE)
    plain = oracles.jit(model.__call__)(TOKENS)
    same = run(model, TOKENS, ones, zeros)["hidden"]
    np.testing.assert_allclose(plain, same, atol=1e-6)
    other = run(model, TOKENS, ones, zeros + 1)["hidden"]
    assert np.abs(plain - other).max() > 0.1


def test_what_is_no_token_gives_nan_in_its_row():
    model = noisy_bert(configuration(layers=1))
    program = oracles.jit(lambda tokens, types: model(tokens, token_types=types))
    expected = program(TOKENS, TYPES)
    for token, kind in [(20, 0), (-1, 0), (0, 2), (0, -1)]:
        tokens, types = TOKENS.copy(), TYPES.copy()
        tokens[1, 2], types[1, 2] = token, kind
        got = program(tokens, types)
        assert np.isnan(got[1]).all()
        np.testing.assert_array_equal(got[::2], expected[::2])


@each_kind
def test_more_tokens_than_the_encoder_takes(positions):
    model = noisy_bert(configuration(positions=positions))
    with pytest.raises(ValueError, match="13 tokens, but the encoder was made for max"):
        model(jnp.zeros((1, 13), jnp.int32))


def test_parts_that_are_not_there():
    model = noisy_bert(configuration(pooler=False))
    hidden = jnp.zeros((1, 2, 16))
    with pytest.raises(ValueError, match="no pooler: set pooler=True"):
        model.pooled(hidden)
    with pytest.raises(ValueError, match="no masked head: set masked_head=True"):
        model.masked_logits(hidden)


# -- Dtypes and transformations


def loss_of(model):
    apply, params, state = functionalize(model)

    def loss(params, key=None):
        tokens, where = jnp.asarray(TOKENS), jnp.asarray(WHERE)
        hidden, _ = apply(params, state, tokens, where=where, key=key)
        hidden = hidden.astype(jnp.float32)
        return jnp.where(WHERE[..., None], jnp.sin(3 * hidden), 0).mean()

    return loss, params


@each_kind
def test_bfloat16(positions):
    config = configuration(positions=positions, masked_head=True)
    exact = run(noisy_bert(config))
    model = noisy_bert(config, jnp.bfloat16)
    half = run(model)
    assert half["hidden"].dtype == half["pooled"].dtype == jnp.bfloat16
    assert half["logits"].dtype == np.float32
    half = jax.tree.map(lambda x: x.astype(np.float32), half)
    # steps of bfloat16 are 2^-8 of a number, and hidden states are up to 2
    assert difference(half, exact) < 0.05
    assert difference(half, exact, "logits") < 0.1
    loss, params = loss_of(model)
    grads = oracles.jit(jax.grad(loss))(params)
    chex.assert_tree_all_finite(grads)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}


def test_norms_and_softmax_of_bfloat16_are_float32():
    """All exponentials, roots and sums in the program of a bfloat16 encoder."""
    model = noisy_bert(configuration(), jnp.bfloat16)
    text = str(jax.make_jaxpr(lambda x, where: model(x, where=where))(TOKENS, WHERE))
    lines = [line.split(" = ") for line in text.splitlines() if " = " in line]
    found = {}
    for out, equation in lines:
        name = equation.split()[0].split("[")[0]
        if name in ("exp", "rsqrt", "reduce_sum"):
            found.setdefault(name, set()).add(out.split(":")[1].split("[")[0])
    assert found == {"exp": {"f32"}, "rsqrt": {"f32"}, "reduce_sum": {"f32"}}


def test_rematerialisation_changes_nothing():
    found = []
    for remat in (False, True):
        loss, params = loss_of(noisy_bert(configuration(remat=remat, dropout=0.2)))
        run = oracles.jit(jax.value_and_grad(loss))
        found.append(run(params, jax.random.key(0)))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


@each_kind
def test_jit_is_eager(positions):
    model = noisy_bert(configuration(positions=positions, layers=1))
    tokens, where, types = map(jnp.asarray, (TOKENS, WHERE, TYPES))
    eager = model(tokens, where=where, token_types=types)
    np.testing.assert_allclose(run(model)["hidden"], eager, atol=1e-5)


# -- Dropout


@pytest.mark.parametrize("name", ["dropout", "attention_dropout"])
def test_dropout(name):
    model = noisy_bert(configuration(layers=1, **{name: 0.3}))
    program = oracles.jit(lambda tokens, key=None: model(tokens, key=key))
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(program(TOKENS, keys[0]), program(TOKENS, keys[0]))
    assert (program(TOKENS, keys[0]) != program(TOKENS, keys[1])).any(-1).all()
    without = noisy_bert(configuration(layers=1))
    np.testing.assert_array_equal(
        program(TOKENS), oracles.jit(without.__call__)(TOKENS)
    )


def test_attention_dropout_keeps_the_expectation():
    model = noisy_bert(configuration(attention_dropout=0.4, positions="relative"))
    attention = model.stack.unstacked()[0].attention
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 16)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 4000)
    many = oracles.jit(jax.vmap(lambda key: attention(x, key=key)))(keys)
    spread = np.std(many, axis=0)
    assert (spread > 0.01).all()
    without = oracles.jit(attention.__call__)(x)
    errors = (np.mean(many, axis=0) - without) / (spread / len(keys) ** 0.5)
    assert np.abs(errors).max() < 5


# -- Configuration


def test_parameters_of_bert_base():
    model = nnx.eval_shape(lambda: Bert(BertConfig(vocabulary=30522), rngs=nnx.Rngs(0)))
    arrays = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(array.size for array in arrays) == 109_482_240  # as published


def test_initial_encoder():
    config = configuration(masked_head=True)
    init = lambda: functionalize(Bert(config, rngs=nnx.Rngs(0))).params
    model = with_params(config, oracles.jit(init)())
    got = run(model)
    assert np.abs(got["hidden"].mean(-1)).max() < 1e-5
    assert np.abs(got["hidden"].std(-1) - 1).max() < 1e-3
    kernels = model.stack.blocks.hidden.kernel[...]
    assert (kernels[0] != kernels[1]).all()


def test_configuration_is_json():
    config = configuration(positions="rotary", masked_head=True)
    again = BertConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(
            ({name: 0}, f"{name} must be >= 1, got 0")
            for name in (
                *("vocabulary", "width", "layers", "heads", "hidden", "max_length"),
                *("distance", "token_types"),
            )
        ),
        ({"heads": 3}, "width must be a multiple of heads, got 16 and 3"),
        (
            {"heads": 16, "positions": "rotary"},
            r"rotary positions need heads of an even width, got 1 \(16 / 16 heads\)",
        ),
        ({"heads": 16, "positions": "relative"}, "relative positions need heads of"),
        ({"epsilon": 0.0}, "epsilon must be > 0, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be > 0, got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"attention_dropout": -0.1}, r"attention_dropout must be in \[0, 1\), got -0"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        configuration(**settings)


# -- Devices


def test_eight_devices_train_as_one():
    config = configuration(
        vocabulary=512, width=64, hidden=256, masked_head=True, dropout=0.1
    )
    graph, params, state = nnx.split(noisy_bert(config), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(0, 512, (16, 12)).astype(np.int32),
        "where": np.arange(12) < rng.integers(1, 13, (16, 1)),
        "labels": rng.integers(0, 2, (16, 64)).astype(bool),
    }

    def loss(params, batch):
        model = nnx.merge(graph, params, state)
        hidden = model(batch["tokens"], where=batch["where"], key=jax.random.key(0))
        words = jax.nn.logsumexp(model.masked_logits(hidden), axis=-1)
        return zlpr_loss(model.pooled(hidden), batch["labels"]).mean() + jnp.mean(
            jnp.where(batch["where"], words, 0)
        )

    step = oracles.jit(jax.value_and_grad(loss))
    one = step(params, batch)
    mesh = make_mesh(data=4, fsdp=2)
    places = param_shardings(mesh, params)
    many = step(jax.device_put(params, places), put_batch(mesh, batch, 16))
    chex.assert_trees_all_close(
        jax.device_get(many), jax.device_get(one), rtol=1e-5, atol=1e-5
    )
    split = {
        path: place.spec
        for path, place in zip(
            _paths(places), jax.tree.leaves(places, is_leaf=_is_place), strict=True
        )
        if place.spec
    }
    assert split == {
        "tokens": P("fsdp"),
        "stack/blocks/hidden/kernel": P(None, None, "fsdp"),
        "stack/blocks/output/kernel": P(None, "fsdp"),
    }


def test_kernels_are_gathered_and_rows_are_not():
    """Of eight devices each gathers one layer after another, and keeps its rows."""
    model = Bert(configuration(width=128, hidden=512), rngs=nnx.Rngs(0))
    graph, params, state = nnx.split(model, nnx.Param, ...)
    mesh = make_mesh(data=4, fsdp=2)
    params = nnx.to_pure_dict(params)
    params = jax.device_put(params, param_shardings(mesh, params))
    tokens = put_batch(mesh, np.zeros((64, 12), np.int32), 64)

    def gathered(context):
        def loss(params, tokens):
            with seen_by_modules(context):
                model = nnx.merge(graph, params, state)
                return jnp.mean(model(tokens, key=jax.random.key(0)) ** 2)

        text = jax.jit(jax.grad(loss)).lower(params, tokens).compile().as_text()
        return set(re.findall(r"= \(?\w+\[([\d,]*)\].*?\ball-gather\(", text))

    rows = "16,12,128"  # those of two devices
    assert {"128,128", "128,512"} <= gathered(mesh)
    assert rows not in gathered(mesh)
    assert rows in gathered(None)  # what the compiler does by itself


def _is_place(node):
    return isinstance(node, NamedSharding)


def _paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_place)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]


@pytest.mark.parametrize("parts", [2, 8, 64])
def test_large_encoders_are_split_without_rules(parts):
    """The kernels of the layers, stacked, each in all of its layers."""
    config = BertConfig(vocabulary=30522, layers=24, width=1024, heads=16, hidden=4096)
    model = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mesh = AbstractMesh((1, parts, 1), ("data", "fsdp", "label"))
    places = param_shardings(mesh, params)
    leaves = jax.tree.leaves(places, is_leaf=_is_place)
    arrays = jax.tree.leaves(params)
    for path, array, place in zip(_paths(places), arrays, leaves, strict=True):
        if array.size < 2**14:
            continue
        axis = place.spec.index("fsdp")
        assert axis > 0 or not path.startswith("stack"), path
        if path.endswith("kernel"):
            assert array.shape[axis] == max(array.shape)
    whole = sum(x.size for x, p in zip(arrays, leaves, strict=True) if not p.spec)
    assert whole < 1e-4 * sum(x.size for x in arrays)
