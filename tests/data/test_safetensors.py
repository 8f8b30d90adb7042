"""Safetensors: what the library wrote is read, and what is not true is refused."""

import json
import os
import random
import struct
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from zlpr_jax._errors import InputError
from zlpr_jax.data import _safetensors, _tensors
from zlpr_jax.data._safetensors import open_folder_safetensors, open_safetensors

GOLDEN = Path(__file__).parent / "golden"
RNG = np.random.default_rng(0)
ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer.0/b": np.arange(4, dtype=np.int64),
    "empty": np.zeros((0, 5), np.float16),
    "scalar": np.array(0.5, np.float64),
    "flags": np.array([True, False]),
}
HUGE = 2**62


def save(path, arrays):
    path.write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))
    return path


def equal(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == expected.tobytes()
    assert found.flags.writeable
    assert found.flags.c_contiguous


def by_hand(header, data=bytes(8)):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def one(**changes):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def fails(call, path, *parts):
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            call()
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message, message


def first_part(value):
    return value[0] if isinstance(value, list) else ""


@pytest.mark.parametrize("name", ["tensorflow", "dtypes"])
def test_golden_files(name):
    path = GOLDEN / f"{name}.safetensors"
    expected = safetensors.numpy.load_file(path)
    file = open_safetensors(path)
    assert file.path == path
    assert set(file.tensors) == set(expected)
    for key, array in expected.items():
        spec = file.tensors[key]
        assert (spec.shape, spec.dtype) == (array.shape, array.dtype)
        equal(file.read(key), array)


@pytest.mark.parametrize("dtype", _safetensors._DTYPES.values(), ids=str)
def test_dtypes(tmp_path, dtype):
    array = RNG.normal(0, 3, (3, 5)).astype(dtype)
    path = save(tmp_path / "model.safetensors", {"x": array, "other": array[:1]})
    equal(open_folder_safetensors(tmp_path).read("x"), array)
    equal(open_safetensors(path).read("other"), array[:1])


def test_a_new_array_each_time(tmp_path):
    file = open_safetensors(save(tmp_path / "x", ARRAYS))
    file.read("a")[:] = 7
    equal(file.read("a"), ARRAYS["a"])
    fails(lambda: file.read("b"), tmp_path / "x", "no tensor 'b'")


def test_a_file_without_tensors(tmp_path):
    (tmp_path / "x").write_bytes(by_hand({}, b""))
    assert open_safetensors(tmp_path / "x").tensors == {}


def test_only_what_is_asked_for_is_read(tmp_path):
    size = 2**36
    header = {
        "large": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        "small": {"dtype": "U8", "shape": [3], "data_offsets": [size, size + 3]},
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(by_hand(header, b""))
    with path.open("r+b") as stream:  # a hole, which takes no place on the disk
        stream.seek(size, os.SEEK_END)
        stream.write(b"abc")
    tracemalloc.start()
    try:
        file = open_folder_safetensors(tmp_path)
        assert file.read("small").tobytes() == b"abc"
        assert file.tensors["large"].size == size
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_too_large_for_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "x", ARRAYS)
    file = open_safetensors(path)

    def empty(*_):
        raise MemoryError

    monkeypatch.setattr(_tensors.np, "empty", empty)
    with pytest.raises(InputError, match="24 bytes do not fit into memory"):
        file.read("a")


def test_a_file_that_is_cut_off_later(tmp_path):
    path = save(tmp_path / "x", ARRAYS)
    file = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cut off \(bytes .*: copy it again"):
        [file.read(name) for name in file.tensors]
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        file.read("a")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is cut off", "0 bytes"]),
        (bytes(7), ["is cut off", "7 bytes"]),
        (b"\xff" * 20, [f"header of {2**64 - 1} bytes", "20 bytes"]),
        (by_hand(one())[:60], ["promises a header", "60 bytes", "cut off"]),
        (by_hand(b""), ["no JSON"]),
        (by_hand(b"{"), ["no JSON"]),
        (by_hand(b"{'x': 1}"), ["no JSON"]),
        (by_hand(b"\xff{}"), ["no JSON"]),
        (by_hand("{}".encode("utf-16")), ["no JSON"]),
        (by_hand(b"[" * 100_000), ["no JSON"]),
        (by_hand(b'{"x": ' * 100_000), ["no JSON"]),
        (by_hand(b'{"x": ' + b"9" * 5000 + b"}"), ["no JSON"]),
        (by_hand([]), ["is []", "JSON object"]),
        (by_hand(b"7"), ["is 7", "JSON object"]),
        (by_hand(b'{"x": 1, "x": 1}'), ["'x' is there twice"]),
        (by_hand(b'{"x": {"dtype": "F32", "dtype": "F32"}}'), ["'dtype' is there"]),
        (by_hand({"__metadata__": {"a": 1}}), ["__metadata__ is {'a': 1}"]),
        (by_hand({"__metadata__": "a"}), ["__metadata__ is 'a'"]),
        (by_hand({"x": 3}), ["tensor 'x' is 3", "data_offsets"]),
        (by_hand({"x": {"dtype": "F32"}}), ["tensor 'x'", "data_offsets"]),
        (by_hand(one(more=1)), ["tensor 'x'", "'more'"]),
        (by_hand(one(dtype="F31")), ["tensor 'x'", "'F31'", "BF16", "convert"]),
        (by_hand(one(dtype=["F32"])), ["tensor 'x'", "['F32']"]),
        (by_hand(one(shape=2)), ["tensor 'x'", "shape 2"]),
        (by_hand(one(shape=[2.0])), ["tensor 'x'", "[2.0]"]),
        (by_hand(one(shape=[True, 2])), ["tensor 'x'", "[True, 2]"]),
        (by_hand(one(shape=["2"])), ["tensor 'x'", "['2']"]),
        (by_hand(one(shape=[-2])), ["tensor 'x'", "[-2]"]),
        (by_hand(one(shape=[-1, -2])), ["tensor 'x'", "[-1, -2]"]),
        (by_hand(one(shape=[2**64 + 2])), ["tensor 'x'", "shape"]),
        (by_hand(one(shape=[10**4000])), ["tensor 'x'", "shape"]),
        # 8 bytes modulo 2^64
        (by_hand(one(shape=[2**61, 2**61 + 1])), ["tensor 'x'", "2^63 bytes"]),
        (by_hand(one(shape=[0, HUGE, HUGE])), ["tensor 'x'", "2^63 bytes"]),
        (by_hand(one(shape=[1] * 64 + [2])), ["tensor 'x'", "65 dimensions"]),
        (by_hand(one(shape=[1] * 100_000)), ["tensor 'x'", "100000 dimensions"]),
        (by_hand(one(shape=[3])), ["tensor 'x'", "12 bytes", "has 8"]),
        (by_hand(one(shape=[])), ["tensor 'x'", "4 bytes", "has 8"]),
        (by_hand(one(dtype="F64")), ["tensor 'x'", "16 bytes", "has 8"]),
        (by_hand(one(data_offsets=[0])), ["tensor 'x'", "data_offsets [0]"]),
        (by_hand(one(data_offsets=[0, 4, 8])), ["tensor 'x'", "[0, 4, 8]"]),
        (by_hand(one(data_offsets=[8, 0])), ["tensor 'x'", "[8, 0]"]),
        (by_hand(one(data_offsets=[-8, 0])), ["tensor 'x'", "[-8, 0]"]),
        (by_hand(one(data_offsets=[0.0, 8])), ["tensor 'x'", "[0.0, 8]"]),
        (by_hand(one(data_offsets=[0, 10**4000])), ["tensor 'x'", "data_offsets"]),
        (by_hand(one(data_offsets=[8, 16])), ["tensor 'x'", "lies from", "cut off"]),
        (by_hand(one(), bytes(7)), ["tensor 'x'", "lies from", "cut off"]),
        (by_hand(one(), bytes(9)), ["tensor 'x'", "ends at byte", "damaged"]),
        (by_hand({}), ["the header ends at byte", "damaged"]),
        (
            by_hand(one(shape=[2**40], data_offsets=[0, 2**42])),
            ["tensor 'x'", "lies from", "cut off"],
        ),
        (by_hand(one(data_offsets=[1, 9]), bytes(9)), ["'x'", "gap behind the header"]),
        (
            by_hand(one() | {"y": one()["x"]}),
            ["tensor 'y'", "overlaps tensor 'x'"],
        ),
        (
            by_hand(one() | {"y": one(data_offsets=[4, 12])["x"]}, bytes(12)),
            ["tensor 'y'", "overlaps tensor 'x'"],
        ),
        (by_hand({"x" * 5000: 3}), ["tensor 'xxx", "xxx... is 3"]),
        (by_hand({"a\nb\ud800": 3}), ["tensor 'a\\nb\\ud800' is 3"]),
    ],
    ids=first_part,
)
def test_bad_files(tmp_path, content, parts):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    fails(lambda: open_folder_safetensors(tmp_path), path, *parts)


def test_a_header_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(_safetensors, "_MAX_JSON", 60)
    path = tmp_path / "model.safetensors"
    path.write_bytes(by_hand(one()))
    fails(lambda: open_safetensors(path), path, "has 61 bytes", "at most 60")


def test_bool_bytes(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(by_hand(one(dtype="BOOL", shape=[8]), b"\0\1\0\1\2\0\0\0"))
    file = open_safetensors(path)
    fails(lambda: file.read("x"), path, "tensor 'x' is bool", "copy it again")


def shards(folder, weight_map=None, **more):
    """A folder of two files; returns its index."""
    names = list(ARRAYS)
    for number in range(2):
        part = {name: ARRAYS[name] for name in names[number::2]}
        save(folder / f"model-{number}.safetensors", part)
    if weight_map is None:
        weight_map = {}
    every = {name: f"model-{at % 2}.safetensors" for at, name in enumerate(names)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": every | weight_map, **more}))
    return index


def test_shards(tmp_path):
    index = shards(tmp_path, metadata={"total_size": 1})
    file = open_folder_safetensors(tmp_path)
    assert file.path == index
    assert list(file.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        equal(file.read(name), array)


def test_one_file_comes_before_shards(tmp_path):
    shards(tmp_path)
    path = save(tmp_path / "model.safetensors", {"only": ARRAYS["a"]})
    file = open_folder_safetensors(tmp_path)
    assert (file.path, list(file.tensors)) == (path, ["only"])


def test_shards_may_be_links(tmp_path):
    # as in the cache of huggingface_hub
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    shards(tmp_path / "blobs")
    for number, path in enumerate(sorted((tmp_path / "blobs").iterdir())):
        moved = path.rename(tmp_path / f"blobs/{number}")
        (tmp_path / "snapshot" / path.name).symlink_to(moved)
    equal(open_folder_safetensors(tmp_path / "snapshot").read("a"), ARRAYS["a"])


@pytest.mark.parametrize(
    ("weight_map", "parts"),
    [
        ({"a": "../model-0.safetensors"}, ["tensor 'a'", "'../model-0.safetensors'"]),
        ({"a": "/etc/passwd"}, ["tensor 'a'", "'/etc/passwd'", "beside the index"]),
        ({"a": "x\\model-0.safetensors"}, ["tensor 'a'", "beside the index"]),
        ({"a": "x/model-0.safetensors"}, ["tensor 'a'", "beside the index"]),
        ({"a": "C:model-0.safetensors"}, ["tensor 'a'", "beside the index"]),
        ({"a": "nul\0"}, ["tensor 'a'", "beside the index"]),
        ({"a": "line\n"}, ["tensor 'a'", "beside the index"]),
        ({"a": "\ud800"}, ["tensor 'a'", "beside the index"]),
        ({"a": ".."}, ["tensor 'a'", "beside the index"]),
        ({"a": ""}, ["tensor 'a'", "beside the index"]),
        ({"a": 3}, ["tensor 'a'", "is in 3"]),
        ({"a": None}, ["tensor 'a'", "is in None"]),
        ({"a": "model-1.safetensors"}, ["'a'", "only in 'model-0.safetensors'"]),
        ({"z": "model-1.safetensors"}, ["'z'", "missing in 'model-1.safetensors'"]),
    ],
)
def test_bad_lists_of_shards(tmp_path, weight_map, parts):
    index = shards(tmp_path, weight_map)
    fails(lambda: open_folder_safetensors(tmp_path), index, *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no JSON"]),
        ("[]", ["is []"]),
        ("{}", ["weight_map is None"]),
        ('{"weight_map": {}}', ["weight_map is {}"]),
        ('{"weight_map": ["x"]}', ["weight_map is ['x']"]),
        ('{"weight_map": {"x": "a", "x": "b"}}', ["'x' is there twice"]),
    ],
)
def test_bad_indices(tmp_path, text, parts):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    fails(lambda: open_folder_safetensors(tmp_path), index, *parts)


def test_shards_that_are_missing_or_damaged(tmp_path):
    shards(tmp_path)
    path = tmp_path / "model-1.safetensors"
    content = path.read_bytes()
    path.unlink()
    fails(
        lambda: open_folder_safetensors(tmp_path),
        path,
        "no such file",
        "model.safetensors.index.json",
    )
    path.mkdir()
    fails(lambda: open_folder_safetensors(tmp_path), path, "no regular file")
    path.rmdir()
    path.write_bytes(content[:-1])
    fails(lambda: open_folder_safetensors(tmp_path), path, "cut off")
    save(path, dict(list(ARRAYS.items())[1::2]) | {"more": ARRAYS["a"]})
    fails(lambda: open_folder_safetensors(tmp_path), "index.json", "'more'", "only in")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ["no files", "name the folder"]),
        (["pytorch_model.bin", "a.bin"], ["torch.load('pytorch_model.bin'", "trust"]),
        (["x.pt"], ["but x.pt", "pickles", "safetensors.torch.save_file"]),
        (["encoder.safetensors"], ["it has encoder.safetensors", "rename"]),
    ],
)
def test_folders_without(tmp_path, names, parts):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    fails(
        lambda: open_folder_safetensors(tmp_path),
        tmp_path,
        "no model.safetensors",
        *parts,
    )


def test_no_folder(tmp_path):
    fails(lambda: open_folder_safetensors(tmp_path / "x"), tmp_path, "check the path")
    fails(lambda: open_safetensors(tmp_path), tmp_path, "no regular file")
    fails(lambda: open_safetensors(tmp_path / "x"), tmp_path / "x", "no such file")
    fails(lambda: open_safetensors(tmp_path / "nul\0"), tmp_path, "cannot be read")


def damaged_files():
    """Cut at every byte, and other bytes in every place of the length and header."""
    content = safetensors.numpy.save(
        {
            "w": np.arange(3, dtype=np.float32),
            "b": np.arange(4, dtype=ml_dtypes.bfloat16).reshape(2, 2),
        },
        {"format": "pt"},
    )
    yield from (content[:size] for size in range(len(content)))
    rng = random.Random(0)
    for place in range(8 + content[0]):
        for value in {content[place] ^ 1, content[place] ^ 128, *b'0"[9'}:
            yield content[:place] + bytes([value]) + content[place + 1 :]
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            cut = rng.choice((0, 1, 1, 3))
            changed[place : place + cut] = bytes(rng.choices(b'0129,:{}[]"ABF', k=1))
        yield bytes(changed)


def test_damage(tmp_path):
    path = tmp_path / "model.safetensors"
    read, messages = 0, []
    for content in damaged_files():
        path.write_bytes(content)
        try:
            file = open_folder_safetensors(tmp_path)
            found = {name: file.read(name) for name in file.tensors}
        except InputError as error:
            messages.append(str(error))
        else:  # the library reads it too, and the same
            expected = dict(safetensors.deserialize(content))
            assert set(found) == set(expected)
            for name, array in found.items():
                theirs = expected[name]
                assert array.shape == tuple(theirs["shape"])
                assert array.dtype == _safetensors._DTYPES[theirs["dtype"]]
                assert array.tobytes() == bytes(theirs["data"])
            read += 1
    assert min(read, len(messages)) > 50
    assert all(str(path) in one and "\n" not in one for one in messages)
