"""Encoders in files: the names, dtypes and layouts that there are, and damage."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.models.berts import (
    GOLDEN,
    STORED,
    TOKENS,
    TYPES,
    WHERE,
    configuration,
    difference,
    noisy_bert,
    run,
    with_params,
)
from tests.models.folders import (
    BARE,
    CONFIG,
    DATA,
    QUERY,
    TENSORS,
    WORDS,
    refused,
    renamed,
    write,
)
from zlpr_jax._errors import InputError
from zlpr_jax.models.pretrained import from_pretrained, save_pretrained
from zlpr_jax.nn import functionalize


@pytest.fixture(scope="module")
def bert():
    return from_pretrained(GOLDEN / "bert")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "encoder"


# -- There and back


@pytest.mark.parametrize("name", ["bert", "bert_bare", "bert_tanh", "roformer"])
def test_there_and_back(name, folder):
    found = from_pretrained(GOLDEN / name)
    assert found.unexpected == ()
    save_pretrained(folder, found.config, found.params)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "model.safetensors")
    ]
    file = "model.safetensors"
    one, two = (safetensors.numpy.load_file(f / file) for f in (GOLDEN / name, folder))
    assert one.keys() == two.keys()
    for key, array in one.items():
        assert two[key].dtype == array.dtype, key
        assert two[key].tobytes() == array.tobytes(), key
    # a few settings say nothing of the shape
    config = json.loads((GOLDEN / name / "config.json").read_text())
    written = json.loads((folder / "config.json").read_text())
    assert written == {key: config[key] for key in written}
    again = from_pretrained(folder)
    assert again.config == found.config
    chex.assert_trees_all_equal(again.params, found.params)


@pytest.mark.parametrize("name", ["bert", "bert_bare", "bert_tanh", "roformer"])
def test_transformers_loads_what_is_written(name, folder):
    torch = pytest.importorskip("torch", reason="needs torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    found = from_pretrained(GOLDEN / name)
    save_pretrained(folder, found.config, found.params)
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        outputs = model.eval()(
            input_ids=torch.tensor(TOKENS).long(),
            token_type_ids=torch.tensor(TYPES).long(),
            attention_mask=torch.tensor(WHERE).long(),
            output_hidden_states=True,
        )
    hidden = outputs.hidden_states[-1].numpy()
    np.testing.assert_allclose(hidden, STORED[f"{name}/hidden"], atol=1e-5)


def test_nezha_there_and_back(folder):
    """By the names that transformers 4 had: there are no absolute positions."""
    config = configuration(positions="relative", distance=3, masked_head=True)
    params = functionalize(noisy_bert(config)).params
    save_pretrained(folder, config, params)
    found = from_pretrained(folder)
    assert found.config == config
    chex.assert_trees_all_equal(found.params, params)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    # with the pooler, that of transformers is called ForPreTraining
    expected = renamed(lambda name: name.replace("bert.", "nezha."))
    expected |= renamed(lambda name: f"nezha.{name}", BARE)
    del expected["nezha.embeddings.position_embeddings.weight"]
    assert stored.keys() == expected.keys()
    kernel = params["stack"]["blocks"]["attention"]["scores"][0]["query"]["kernel"]
    np.testing.assert_array_equal(
        stored["nezha.encoder.layer.1.attention.self.query.weight"], kernel[1].T
    )
    # in some files there are the sinusoids too
    sinusoids = "encoder.layer.0.attention.self.relative_positions_encoding"
    stored[f"nezha.{sinusoids}.positions_encoding"] = np.zeros((12, 12, 8))
    written = json.loads((folder / "config.json").read_text())
    found = from_pretrained(write(folder, stored, written))
    assert found.unexpected == ()
    chex.assert_trees_all_equal(found.params, params)


# -- Names


OTHER_NAMES = {
    "gamma and beta": lambda name: name.replace("Norm.weight", "Norm.gamma").replace(
        "Norm.bias", "Norm.beta"
    ),
    "bare": lambda name: name.removeprefix("bert."),
    "other prefix": lambda name: name.replace("bert.", "model.encoder."),
    "tied output's bias": lambda name: name.replace(
        "cls.predictions.bias", "cls.predictions.decoder.bias"
    ),
}


@pytest.mark.parametrize("change", OTHER_NAMES)
def test_other_names(bert, folder, change):
    tensors = renamed(OTHER_NAMES[change])
    assert tensors.keys() != TENSORS.keys()
    found = from_pretrained(write(folder, tensors))
    assert found.unexpected == ()
    assert found.config == bert.config
    chex.assert_trees_all_equal(found.params, bert.params)


def test_what_else_is_in_files(bert, folder):
    more = {
        "cls.predictions.decoder.weight": TENSORS[WORDS],
        "cls.predictions.decoder.bias": TENSORS["cls.predictions.bias"],
        "bert.embeddings.position_ids": np.arange(12)[None],
        "cls.seq_relationship.weight": np.zeros((2, 16), np.float32),
        "classifier.bias": np.zeros(7, np.float32),
    }
    found = from_pretrained(write(folder, {**TENSORS, **more}))
    assert found.unexpected == ("classifier.bias", "cls.seq_relationship.weight")
    chex.assert_trees_all_equal(found.params, bert.params)


def test_parts_on_demand(bert, folder):
    tensors = {**TENSORS, **renamed(lambda name: f"bert.{name}", BARE)}
    write(folder, tensors)
    both = from_pretrained(folder)
    assert both.config.pooler
    assert both.config.masked_head
    neither = from_pretrained(folder, pooler=False, masked_head=False)
    assert not neither.config.pooler
    assert not neither.config.masked_head
    assert neither.unexpected == ()
    assert both.params.keys() - neither.params.keys() == {"pooler", "masked_head"}
    chex.assert_trees_all_equal(
        neither.params, {name: both.params[name] for name in neither.params}
    )
    message = refused(GOLDEN / "bert", "2 tensors are missing: pooler.d", pooler=True)
    assert "pooler.dense.weight, pooler.dense.bias; is this" in message
    refused(GOLDEN / "bert_bare", "5 tensors are missing: cls", masked_head=True)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("cls.predictions.decoder.weight", TENSORS[WORDS] + np.float32(0.01)),
        ("cls.predictions.decoder.weight", TENSORS[WORDS][:-1]),
        ("cls.predictions.decoder.bias", TENSORS["cls.predictions.bias"][::-1]),
    ],
)
def test_an_output_of_its_own(folder, name, array):
    write(folder, {**TENSORS, name: array})
    with pytest.raises(InputError, match=f"{name} is not .* is not supported"):
        from_pretrained(folder)
    from_pretrained(folder, masked_head=False)


def test_trained_positions_of_roformer(folder):
    tensors = safetensors.numpy.load_file(GOLDEN / "roformer" / "model.safetensors")
    config = json.loads((GOLDEN / "roformer" / "config.json").read_text())
    name = "roformer.encoder.embed_positions.weight"
    rounded = tensors[name].astype(np.float16)
    from_pretrained(write(folder, {**tensors, name: rounded}, config))
    write(folder, {**tensors, name: tensors[name][:, ::-1]}, config)
    with pytest.raises(InputError, match=f"{name} is not made of sinusoids"):
        from_pretrained(folder)
    del tensors[name]
    from_pretrained(write(folder, tensors, config))


# -- What does not fit


def test_missing_tensors_are_listed(folder):
    bias = QUERY.replace("weight", "bias")
    kept = {name: x for name, x in TENSORS.items() if name not in (QUERY, bias)}
    message = refused(write(folder, kept), "2 tensors are missing: ")
    for name in (QUERY, bias):
        assert name.removeprefix("bert.") in message
    few = {name: x for name, x in TENSORS.items() if "layer.1" not in name}
    message = refused(write(folder, few), "16 tensors are missing: ")
    assert message.count("encoder.layer.1.") == 8
    assert "and 8 more" in message
    other = {"wte.weight": np.zeros((3, 4), np.float32)}
    refused(write(folder, other, {**CONFIG, "num_hidden_layers": 1}), "21 tensors are")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (WORDS, TENSORS[WORDS].T, r"has the shape \[16, 20\].* says \[20, 16\]"),
        (QUERY, TENSORS[QUERY][None], r"has the shape \[1, 16, 16\].* says \[16, 16\]"),
        (QUERY, TENSORS[QUERY].astype(np.float64), "is float64; expected float32"),
        (QUERY, TENSORS[QUERY].astype(np.int8), "is int8; expected float32, float16"),
        (
            "bert.encoder.layer.0.intermediate.dense.weight",
            TENSORS["bert.encoder.layer.0.intermediate.dense.weight"].T,
            r"has the shape \[16, 24\]; the configuration says \[24, 16\]",
        ),
    ],
)
def test_another_shape_or_dtype(folder, name, array, words):
    refused(write(folder, {**TENSORS, name: array}), f"{name} {words}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocab_size": 2**30}, f"{WORDS} has the shape .* says .1073741824, 16."),
        ({"hidden_size": 2**30}, f"{WORDS} has the shape .* says .20, 1073741824."),
        ({"max_position_embeddings": 13}, "position_embeddings.weight has the shape"),
        ({"num_hidden_layers": 2**30}, "num_hidden_layers is 1073741824, but there "),
    ],
)
def test_a_configuration_of_another_encoder(folder, settings, words):
    refused(write(folder, config={**CONFIG, **settings}), words)


def test_a_transposed_square_kernel_is_seen(folder):
    """Not by its shape: what the encoder says is not what is stored."""
    expected = {"hidden": STORED["bert/hidden"]}
    for name in (QUERY, QUERY.replace("query", "value")):
        config, params, _ = from_pretrained(
            write(folder, {**TENSORS, name: TENSORS[name].T}), masked_head=False
        )
        assert difference(run(with_params(config, params)), expected) > 0.1


def test_two_encoders(folder):
    tensors = {**TENSORS, **renamed(lambda name: f"b.{name}")}
    refused(write(folder, tensors), r"there are 2 encoders, b.bert., bert.: keep one")
    bias = QUERY.replace("weight", "bias").removeprefix("bert.")
    tensors = {**TENSORS, bias: np.zeros(16, np.float32)}
    refused(write(folder, tensors), f"{bias} are the same tensor: keep one of them")


def test_a_truncated_file(folder):
    write(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "tensor '.*the file has")


# -- Dtypes and layouts


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision(folder, tmp_path, dtype):
    for name in ("bert", "roformer"):
        tensors = safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")
        config = json.loads((GOLDEN / name / "config.json").read_text())
        half = {key: x.astype(dtype) for key, x in tensors.items()}
        config, params, _ = from_pretrained(write(folder, half, config))
        assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(dtype)}
        save_pretrained(tmp_path / name, config, params)
        again = safetensors.numpy.load_file(tmp_path / name / "model.safetensors")
        assert again.keys() == half.keys()
        for key, array in half.items():
            assert again[key].dtype == dtype
            assert again[key].tobytes() == array.tobytes()


def test_several_dtypes_give_the_widest(bert, folder):
    mixed = dict(TENSORS)
    mixed[QUERY] = mixed[QUERY].astype(np.float16)
    params = from_pretrained(write(folder, mixed)).params
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    kernel = params["stack"]["blocks"]["attention"]["scores"][0]["query"]["kernel"]
    expected = np.stack(
        [TENSORS[QUERY.replace("layer.1", "layer.0")], mixed[QUERY].astype(np.float32)]
    ).transpose(0, 2, 1)
    np.testing.assert_array_equal(kernel, expected)
    chex.assert_trees_all_equal(params["masked_head"], bert.params["masked_head"])


def test_shards(bert, folder):
    write(folder)
    (folder / "model.safetensors").unlink()
    names, shards = list(TENSORS), {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: TENSORS[name] for name in names[number::3]}
        safetensors.numpy.save_file(part, folder / file)
        shards |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    chex.assert_trees_all_equal(from_pretrained(folder).params, bert.params)


def test_tensorflow(folder):
    """The same as from the same arrays in a Hugging Face folder."""
    found = from_pretrained(DATA / "bert_tensorflow")
    assert found.config == configuration(
        dropout=0.1, attention_dropout=0.1, distance=64, masked_head=True
    )
    assert found.unexpected == (
        *("cls/seq_relationship/output_bias", "cls/seq_relationship/output_weights"),
    )
    arrays = safetensors.numpy.load_file(DATA / "tensorflow.safetensors")
    tensors = {}
    for name, array in arrays.items():
        if name.endswith(("adam_m", "adam_v", "global_step")) or "seq_rel" in name:
            continue
        for layer in range(2):
            name = name.replace(f"layer_{layer}", f"layer/{layer}")
        name = name.replace("/", ".").replace("output_bias", "bias")
        name = name.replace("gamma", "weight").replace("beta", "bias")
        name += ".weight" if name.endswith("_embeddings") else ""
        array = array.T if name.endswith("kernel") else array
        tensors[name.replace("kernel", "weight")] = array
    assert tensors.keys() >= TENSORS.keys()
    again = from_pretrained(write(folder, tensors))
    assert again.config == dataclasses.replace(found.config)
    chex.assert_trees_all_equal(again.params, found.params)


def test_nezha_of_tensorflow(folder):
    """Its configuration has no model_type."""
    config = json.loads((DATA / "bert_tensorflow" / "bert_config.json").read_text())
    tensors = {x: y for x, y in BARE.items() if "position_embeddings" not in x}
    config["use_relative_position"] = True
    for more in ({}, {"model_type": "bert"}, {"model_type": "nezha"}):
        found = from_pretrained(
            write(folder, tensors, {**config, **more}, "bert_config.json")
        )
        assert found.config.positions == "relative"
        assert found.config.distance == 64
        assert "positions" not in found.params


# -- The vocabulary


def test_kept_and_compound_tokens(bert, folder):
    keep, compound = [0, 7, 3, 19], [[0], [4, 5, 5], [6, 7]]
    found = from_pretrained(
        GOLDEN / "bert", keep_tokens=np.array(keep), compound_tokens=compound
    )
    assert found.config == dataclasses.replace(bert.config, vocabulary=7)
    tables = [
        (found.params["tokens"], TENSORS[WORDS]),
        (found.params["masked_head"]["bias"], TENSORS["cls.predictions.bias"]),
    ]
    for table, whole in tables:
        np.testing.assert_array_equal(table[:5], whole[[*keep, 0]])
        np.testing.assert_allclose(
            table[5], (whole[4] + 2 * whole[5]) / 3, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(table[6], (whole[6] + whole[7]) / 2, rtol=1e-6)
    for name in ("positions", "token_types", "norm", "stack"):
        chex.assert_trees_all_equal(found.params[name], bert.params[name])
    save_pretrained(folder, found.config, found.params)
    chex.assert_trees_all_equal(from_pretrained(folder).params, found.params)
    alone = from_pretrained(GOLDEN / "bert_bare", compound_tokens=[[1, 2]])
    assert alone.config.vocabulary == 21
    np.testing.assert_array_equal(
        alone.params["tokens"][:20], BARE[WORDS.removeprefix("bert.")]
    )
    assert alone.params["tokens"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_tokens": [0, 20]}, r"keep_tokens must hold ids in \[0, 19\], got 0 to"),
        ({"keep_tokens": [-1]}, r"keep_tokens must hold ids in \[0, 19\], got -1 to"),
        ({"keep_tokens": [3, 3]}, "keep_tokens must hold each id once"),
        ({"keep_tokens": []}, "keep_tokens must hold lists of ids"),
        ({"compound_tokens": [[1], [20]]}, r"compound_tokens must hold ids in"),
        ({"compound_tokens": [[1], []]}, "compound_tokens must hold lists of ids"),
    ],
)
def test_bad_vocabularies(options, words):
    with pytest.raises(ValueError, match=words):
        from_pretrained(GOLDEN / "bert", **options)
