"""Meshes: where arrays lie, and that it changes nothing but where they lie."""

import signal
import types

import chex
import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from zlpr_jax._errors import InputError
from zlpr_jax.data.multilabel import Record
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.optim import adafactor, adax
from zlpr_jax.tasks import multilabel
from zlpr_jax.training import (
    CheckpointConfig,
    FitConfig,
    fit,
    make_mesh,
    param_shardings,
    parse_mesh,
    predict,
    put_batch,
)
from zlpr_jax.training._mesh import fetch, process_rows
from zlpr_jax.training._state import start_of
from zlpr_jax.training._step import StepOptions, train_step

SHAPES = {
    "embed": {"table": (1000, 64)},
    "layers": {0: {"kernel": (128, 128), "bias": (128,)}, 1: {"kernel": (127, 256)}},
    "odd": (131, 127),
    "small": (64, 128),
}
PARAMS = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, "float32"),
    SHAPES,
    is_leaf=lambda node: isinstance(node, tuple),
)


def specs(mesh, rules=()):
    return jax.tree.map(lambda s: tuple(s.spec), param_shardings(mesh, PARAMS, rules))


def test_mesh_from_text():
    assert parse_mesh("data=4,fsdp=2") == {"data": 4, "fsdp": 2}
    assert parse_mesh(" label = 8 ") == {"label": 8}
    mesh = make_mesh(**parse_mesh("fsdp=2,data=4"))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "label": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "axis=size"),
        ("8", "axis=size"),
        ("data=4,", "axis=size"),
        ("fdsp=2", "no axis 'fdsp': did you mean fsdp?"),
        ("labels=2", "did you mean label?"),
        ("x=2", "there are data, fsdp, label"),
        ("data=2,data=4", "names the axis data twice"),
        ("data=0", "integer >= 1, got '0'"),
        ("data=-2", "integer >= 1, got '-2'"),
        ("data=2.5", "integer >= 1, got '2.5'"),
        ("data=", "integer >= 1, got ''"),
    ],
)
def test_bad_text(text, reason):
    with pytest.raises(InputError, match=reason.replace("?", r"\?")):
        parse_mesh(text)


def test_devices_of_a_mesh():
    devices = jax.devices()
    mesh = make_mesh(data=2, fsdp=2, label=2)
    assert mesh.devices.shape == (2, 2, 2)
    assert mesh.devices[0, 0].tolist() == devices[:2], "label is the innermost axis"
    assert make_mesh(fsdp=2).devices.ravel().tolist() == devices[:2]
    assert make_mesh(devices=devices[5:]).devices.item() == devices[5]


def test_too_many_devices():
    with pytest.raises(InputError, match=r"data=3,fsdp=3,label=1 needs 9.*are 8.*=9"):
        make_mesh(data=3, fsdp=3)
    with pytest.raises(InputError, match=">= 1"):
        make_mesh(data=0)


def test_several_processes_use_all_devices():
    """Devices as several processes see them."""
    devices = [
        types.SimpleNamespace(id=i, process_index=i // 4, platform="gpu")
        for i in range(8)
    ]
    with pytest.raises(InputError, match=r"4 of 8 devices.*all of them"):
        make_mesh(data=4, devices=devices)


def test_places_without_rules():
    """The largest axis that fits, the last of equals; small arrays stay whole."""
    assert specs(make_mesh(data=4, fsdp=2)) == {
        "embed": {"table": ("fsdp",)},
        "layers": {
            0: {"kernel": (None, "fsdp"), "bias": ()},
            1: {"kernel": (None, "fsdp")},
        },
        "odd": (),
        "small": (),
    }
    assert set(jax.tree.leaves(specs(make_mesh(data=8)))) == set()


def test_first_rule_wins():
    rules = [("0/kernel$", P("label", "fsdp")), ("kernel", P(None, "label"))]
    placed = specs(make_mesh(fsdp=2, label=2), [*rules, ("small", P())])
    assert placed["layers"][0]["kernel"] == ("label", "fsdp")
    assert placed["layers"][1]["kernel"] == (None, "label")
    assert placed["embed"]["table"] == ("fsdp",)
    # an axis of one device fits anything, and is not written
    rule = ("odd", P("fsdp", ("data", "label")))
    assert specs(make_mesh(), [rule])["odd"] == ()
    placed = specs(make_mesh(label=2), [("table", P(("data", "label"), "fsdp"))])
    assert placed["embed"]["table"] == ("label",)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (("odd", P("fsdp")), r"'odd' of shape \(131, 127\): axis 0.*2 equal"),
        (("bias", P(("fsdp", "label"), None)), "layers/0/bias.*2 entries for 1 axes"),
        (("small", P("model")), "'small'.*no axis 'model'.*data, fsdp, label"),
        (("kernal", P()), "'kernal'.*matches no parameter.*layers/0/kernel"),
    ],
)
def test_bad_rules(rule, reason):
    with pytest.raises(InputError, match=reason):
        param_shardings(make_mesh(fsdp=2, label=2), PARAMS, [rule])


@pytest.mark.parametrize(
    "sizes", [{}, {"data": 2, "fsdp": 2, "label": 2}, {"label": 8}]
)
def test_batches_are_placed_by_rows(sizes):
    mesh = make_mesh(**sizes)
    arrays = {"x": np.arange(24.0).reshape(8, 3), "where": np.arange(8) < 7}
    np.testing.assert_array_equal(process_rows(mesh, 8), np.arange(8))
    placed = put_batch(mesh, arrays, 8)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    for array in placed.values():
        assert len(array.addressable_shards) == mesh.size
        assert array.addressable_shards[0].data.shape[0] == 8 // parts
    for name, array in fetch(placed).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_rows_that_cannot_be_split():
    mesh = make_mesh(data=2, fsdp=2, label=2)
    with pytest.raises(InputError, match=r"multiple of the 4.*data=2,fsdp=2.*got 6"):
        put_batch(mesh, np.zeros((6, 2)), 6)


RNG = np.random.default_rng(0)
RECORDS = [
    Record(
        id=str(i),
        features=RNG.normal(size=128).astype(np.float32),
        labels=np.flatnonzero(RNG.random(24) < 0.2).astype(np.int32),
    )
    for i in range(90)
]
TASK = multilabel.make(MLPConfig(features=128, labels=24, hidden=(256,), dropout=0.1))
TX = adafactor(1e-2)
CONFIG = FitConfig(steps=18, batch_size=32, report_every=1)
MESH = make_mesh(data=2, fsdp=4)


def run(mesh, until=None, folder=None):
    """Fit, until a Ctrl-C soon after step `until`; return the loss of each step too."""
    losses = {}

    def report(progress):
        if progress.metrics:
            losses[progress.step] = progress.metrics["loss"]
        if progress.step == until:
            signal.raise_signal(signal.SIGINT)

    checkpoints = None if folder is None else CheckpointConfig(folder=folder)
    result = fit(
        TASK, TX, RECORDS, CONFIG, mesh=mesh, checkpoints=checkpoints, report=report
    )
    return result, losses


@pytest.fixture(scope="module")
def one_device():
    return run(None)


def all_close(losses, expected):
    np.testing.assert_allclose(
        list(losses.values()), [expected[step] for step in losses], rtol=1e-5
    )


@pytest.mark.parametrize("mesh", [MESH, make_mesh(data=8)], ids=["fsdp", "data"])
def test_fit_is_that_of_one_device(one_device, mesh):
    expected, losses = one_device
    compiled = train_step._cache_size()
    result, on_mesh = run(mesh)
    assert train_step._cache_size() == compiled + 1, "one program for all steps"
    assert on_mesh.keys() == losses.keys() == set(range(1, CONFIG.steps + 1))
    all_close(on_mesh, losses)
    chex.assert_trees_all_close(result.params, expected.params, rtol=1e-3, atol=1e-5)
    places = param_shardings(mesh, result.params)
    assert jax.tree.map(lambda x: x.sharding, result.params) == places
    # 90 records: the last batch is not full
    found = predict(TASK, result.params, result.state, RECORDS, 32, mesh=mesh)
    logits = predict(TASK, expected.params, expected.state, RECORDS, 32)
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-3)


# The columns of 128 x 256 are split: means of columns are, means of rows are not.
PARTS = {
    "adafactor": {((128,), (128,)), ((256,), (64,)), ((256,), (256,))},
    "adax": {((128, 256), (128, 64)), ((256,), (256,))},
}


@pytest.mark.parametrize(("tx", "name"), [(TX, "adafactor"), (adax(1e-2), "adax")])
def test_optimizer_state_is_split(tx, name):
    train = start_of(TASK, tx, CONFIG, MESH).init(jax.random.key(0), None)
    assert PARTS[name] == {
        (leaf.shape, leaf.addressable_shards[0].data.shape)
        for leaf in jax.tree.leaves(train.opt_state)
        if leaf.size >= 128 and 24 not in leaf.shape
    }


def test_step_needs_nothing_of_the_host_and_moves_nothing():
    start = start_of(TASK, TX, CONFIG, MESH)
    train = start.init(jax.random.key(0), None)
    arrays = TASK.batch(RECORDS[:32], 32)
    batch = put_batch(MESH, arrays, 32)
    with jax.transfer_guard("disallow"):
        train, _ = train_step(TASK, TX, StepOptions.of(CONFIG), MESH, train, batch)
        with pytest.raises(Exception, match="Disallowed host-to-device"):
            train_step(TASK, TX, StepOptions.of(CONFIG), MESH, train, arrays)
    places = jax.tree.map(lambda leaf: leaf.sharding, start.like)
    assert jax.tree.map(lambda leaf: leaf.sharding, train) == places


def test_goes_on_with_fewer_devices(one_device, tmp_path):
    expected, losses = one_device
    interrupted, first = run(MESH, 5, tmp_path)
    assert interrupted.interrupted
    result, second = run(None, None, tmp_path)
    assert [*first, *second] == list(losses), "each step once"
    all_close(first | second, losses)
    chex.assert_trees_all_close(result.params, expected.params, rtol=1e-3, atol=1e-5)


def test_restored_onto_other_devices(tmp_path):
    """A finished fit, read back by fewer devices: the same numbers, spread anew."""
    result, _ = run(MESH, folder=tmp_path)
    logits = predict(TASK, result.params, result.state, RECORDS, 32, mesh=MESH)
    for mesh in (make_mesh(fsdp=2), None):
        restored, losses = run(mesh, folder=tmp_path)
        assert not losses, "nothing is trained"
        chex.assert_trees_all_equal(
            jax.device_get(restored.params), jax.device_get(result.params)
        )
        kernel = restored.params["input"]["kernel"]
        assert len(kernel.addressable_shards) == (1 if mesh is None else 2)
        found = predict(TASK, restored.params, restored.state, RECORDS, 32, mesh=mesh)
        np.testing.assert_allclose(found, logits, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.stack(found) > 0, np.stack(logits) > 0)
