"""TensorFlow's checkpoints: what it wrote is read, and what is not true is refused.

Tables with lies in them, but with right checksums, are made here.
"""

import random
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data import _crc32c
from zlpr_jax.data._crc32c import crc32c
from zlpr_jax.data._protobuf import fields, read_varint
from zlpr_jax.data._safetensors import open_safetensors
from zlpr_jax.data._sstable import read_table
from zlpr_jax.data._tensorflow import open_tensorflow

GOLDEN = Path(__file__).parent / "golden"
REFLECTED = 0x82F63B78


def plain_crc32c(data):
    """Bit by bit, as the definition says."""
    crc = 0xFFFFFFFF
    for byte in bytes(data):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (REFLECTED if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(np.frombuffer(data, np.uint8))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value):
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def header(shards=1, endianness=0, needed=0):
    version = field(1, 1) + field(2, needed)
    return field(1, shards) + field(2, endianness) + field(3, version)


def entry(data=b"", shape=(2,), dtype=1, shard=0, offset=0, size=None, more=b""):
    sizes = b"".join(field(2, field(1, one)) for one in shape)
    size = len(data) if size is None else size
    checksum = varint(6 << 3 | 5) + struct.pack("<I", masked(data))
    where = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, sizes) + where + checksum + more


def pairs_block(pairs, restart=16):
    out, restarts, before = b"", [], b""
    for at, (key, value) in enumerate(pairs):
        shared = 0
        if at % restart:
            most = min(len(key), len(before))
            other = (byte for byte in range(most) if key[byte] != before[byte])
            shared = next(other, most)
        else:
            restarts.append(len(out))
        before = key
        rest = key[shared:]
        out += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def stored(block, kind=0):
    return block + bytes([kind]) + struct.pack("<I", masked(block + bytes([kind])))


def table(blocks, kind=0, handles=None):
    """A table of blocks, each a list of pairs or bytes."""
    content, found = b"", []
    for block in blocks:
        block = pairs_block(block) if isinstance(block, list) else block
        found.append(varint(len(content)) + varint(len(block)))
        content += stored(block, kind)
    handles = found if handles is None else handles
    listed = pairs_block([(b"%09d" % at, one) for at, one in enumerate(handles)], 1)
    settings = pairs_block([])
    places = varint(len(content)) + varint(len(settings))
    content += stored(settings)
    places += varint(len(content)) + varint(len(listed))
    content += stored(listed)
    magic = bytes.fromhex("57fb808b247547db")
    return content + places.ljust(40, b"\0") + magic


def bundle(folder, *entries, head=None, data=bytes(8)):
    """A checkpoint of one block and one data file; returns its prefix."""
    pairs = [(b"", header() if head is None else head), *entries]
    (folder / "model.index").write_bytes(table([pairs]))
    (folder / "model.data-00000-of-00001").write_bytes(data)
    return folder / "model"


def read_all(prefix):
    file = open_tensorflow(prefix)
    return {name: file.read(name) for name in file.tensors}


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        assert array.shape == expected[name].shape
        assert array.tobytes() == expected[name].tobytes()


def golden(name):
    file = open_safetensors(GOLDEN / f"{name}.safetensors")
    return {name: file.read(name) for name in file.tensors}


def fails(prefix, *parts):
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read_all(prefix)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(prefix), *parts):
        assert part in message, message


@pytest.fixture(autouse=True)
def powers():
    _crc32c._powers()  # once, so that it is in no test's memory


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"a", 0xC1D04330),
    ],
)
def test_known_checksums(data, crc):
    assert crc32c(np.frombuffer(data, np.uint8)) == plain_crc32c(data) == crc


# where the window of one fold or the other is just full, or the gap is
@pytest.mark.parametrize(
    "size", [*range(1, 9), 6772, 6773, 6774, 13065, 13066, 13067, 54212, 54213, 104557]
)
def test_checksums_of_many_sizes(size):
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    assert crc32c(data) == plain_crc32c(data)


def test_checksums_of_a_large_array():
    # a table for a byte, as others do it
    table = [plain_crc32c(bytes([byte])) for byte in range(256)]
    table = [one ^ plain_crc32c(b"\0") for one in table]
    data = np.random.default_rng(0).integers(0, 256, 700_001).astype(np.uint8)
    crc = 0xFFFFFFFF
    for byte in data.tobytes():
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    assert crc32c(data) == crc ^ 0xFFFFFFFF


def test_the_sparse_multiple_is_one():
    terms = (_crc32c._DEGREE, _crc32c._SECOND, _crc32c._THIRD, 0)
    remainder = 0
    for term in terms:
        power = 1
        for _ in range(term):
            power = power << 1 ^ (0x11EDC6F41 if power >> 31 else 0)
        remainder ^= power
    assert remainder == 0


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("bert_tensorflow/bert_model.ckpt", "tensorflow"),
        ("dtypes_tensorflow/model", "dtypes"),
    ],
)
def test_golden_checkpoints(prefix, expected):
    arrays = golden(expected)
    file = open_tensorflow(GOLDEN / prefix)
    assert file.path == GOLDEN / f"{prefix}.index"
    for name, array in arrays.items():
        spec = file.tensors[name]
        assert (spec.shape, spec.dtype) == (array.shape, array.dtype)
    found = read_all(GOLDEN / prefix)
    same(found, arrays)
    assert all(array.flags.writeable for array in found.values())


def test_both_data_files_hold_tensors():
    file = open_tensorflow(GOLDEN / "bert_tensorflow/bert_model.ckpt")
    names = {spec.file.name for spec in file.tensors.values()}
    assert names == {f"bert_model.ckpt.data-0000{at}-of-00002" for at in (0, 1)}


def test_objects():
    found = read_all(GOLDEN / "objects_tensorflow/model")
    name = "weight/.ATTRIBUTES/VARIABLE_VALUE"
    same(found, {name: np.arange(6, dtype=np.float32).reshape(2, 3)})


def test_slices_are_refused():
    fails(GOLDEN / "sliced_tensorflow/model", "'table'", "2 slices", "partitioner")


def test_damaged_files():
    prefix = GOLDEN / "damaged_data/model"
    fails(prefix, "data-00000-of-00001", "tensor 'scalar'", "checksum", "copy it again")
    arrays = golden("dtypes")
    file = open_tensorflow(prefix)
    del arrays["scalar"]
    same({name: file.read(name) for name in arrays}, arrays)
    prefix = GOLDEN / "damaged_index/model"
    fails(prefix, "model.index", "block at byte 0", "checksum", "copy it again")


def copied(tmp_path):
    shutil.copytree(GOLDEN / "dtypes_tensorflow", tmp_path / "x")
    return tmp_path / "x/model"


def changed_files(content, rng):
    """Cut at every byte; a bit of each byte changed; some cut out, others put in."""
    yield from (content[:size] for size in range(len(content)))
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        yield bytes(changed)
    for _ in range(150):
        changed = bytearray(content)
        place = rng.randrange(len(content))
        cut = rng.choice((0, 1, 4))
        changed[place : place + cut] = rng.randbytes(rng.choice((0, 1, 4)))
        yield bytes(changed)


@pytest.mark.parametrize("ending", ["index", "data-00000-of-00001"])
def test_damage_is_noticed(tmp_path, ending):
    prefix, expected = copied(tmp_path), golden("dtypes")
    path = prefix.with_name(f"model.{ending}")
    messages = []
    for content in changed_files(path.read_bytes(), random.Random(ending)):
        path.write_bytes(content)
        try:
            found = read_all(prefix)
        except InputError as error:
            messages.append(str(error))
        else:  # the damage is in the footer's padding, or undone
            same(found, expected)
    assert len(messages) > 300
    assert all(str(prefix) in one and "\n" not in one for one in messages)


def test_damage_with_a_right_checksum(tmp_path, monkeypatch):
    prefix = copied(tmp_path)
    index = prefix.with_name("model.index")
    block = pairs_block(list(read_table(index)))
    index.write_bytes(table([block]))
    same(read_all(prefix), golden("dtypes"))
    empty = np.empty

    def small(size, *args):
        assert size < 1000
        return empty(size, *args)

    monkeypatch.setattr(np, "empty", small)
    read, messages = 0, []
    for changed in changed_files(block, random.Random(0)):
        index.write_bytes(table([changed]))
        try:
            read += len(read_all(prefix)) > 0
        except InputError as error:
            messages.append(str(error))
    assert read > 10
    assert len(messages) > 300
    assert all(str(prefix) in one and "\n" not in one for one in messages)


def test_many_blocks(tmp_path):
    data = np.arange(300, dtype=np.float32)
    parts = [data[at : at + 3].tobytes() for at in range(0, 300, 3)]
    pairs = [(b"", header())]
    for at, part in enumerate(parts):
        pairs.append((b"layer_%03d/bias" % at, entry(part, (3,), offset=12 * at)))
    blocks = [pairs[at : at + 7] for at in range(0, len(pairs), 7)]
    (tmp_path / "x.index").write_bytes(table(blocks))
    (tmp_path / "x.data-00000-of-00001").write_bytes(data.tobytes())
    found = read_all(tmp_path / "x")
    assert list(found) == [f"layer_{at:03d}/bias" for at in range(100)]
    np.testing.assert_array_equal(np.concatenate(list(found.values())), data)


def test_only_what_is_asked_for_is_read(tmp_path):
    size = 2**36
    large = (b"large", entry(b"", (size,), 4, size=size))
    small = (b"small", entry(b"abc", (3,), 4, offset=size))
    prefix = bundle(tmp_path, large, small)
    with (tmp_path / "model.data-00000-of-00001").open("wb") as stream:
        stream.seek(size)  # a hole, which takes no place on the disk
        stream.write(b"abc")
    tracemalloc.start()
    try:
        file = open_tensorflow(prefix)
        assert file.read("small").tobytes() == b"abc"
        assert file.tensors["large"].shape == (size,)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        ({"shape": (3,)}, ["12 bytes", "has 8"]),
        ({"shape": ()}, ["4 bytes", "has 8"]),
        ({"shape": (-2,)}, ["[-2]"]),
        ({"shape": (-1, -2)}, ["[-1, -2]"]),
        # 8 bytes modulo 2^64
        ({"shape": (2**61, 2**61 + 1)}, ["2^63 bytes"]),
        ({"shape": (0, 2**62, 2**62)}, ["2^63 bytes"]),
        ({"shape": (1,) * 65}, ["65 dimensions"]),
        ({"shape": (2**40,), "size": 2**42}, ["lies from byte 0", "has 8", "cut off"]),
        ({"offset": 1}, ["from byte 1 to byte 9", "has 8", "cut off"]),
        ({"offset": -8}, ["from byte -8 to byte 0"]),
        ({"offset": 2**63 - 1}, ["lies from byte", "cut off"]),
        ({"size": -8}, ["has -8"]),
        ({"shard": 1}, ["data file 1 of 1"]),
        ({"shard": -1}, ["data file -1 of 1"]),
        ({"dtype": 11}, ["dtype 11", "float32", "convert"]),
        ({"dtype": 101}, ["dtype 101"]),
        ({"dtype": -1}, ["dtype -1"]),
        ({"dtype": 0}, ["dtype 0"]),
        ({"more": field(7, b"")}, ["1 slices"]),
        ({"more": field(9, 1)}, ["entry of", "unknown field 9"]),
        ({"more": field(2, field(3, 1))}, ["entry of", "dimensions is unknown"]),
        ({"more": field(2, 1)}, ["entry of", "expected bytes"]),
        ({"more": field(1, b"1")}, ["entry of", "expected an integer"]),
        ({"more": field(2, b"\x12\x09\x08")}, ["entry of", "9 bytes, 1 are left"]),
        ({"more": b"\x0b"}, ["entry of", "unknown kind 3"]),
        ({"more": b"\0\0"}, ["entry of", "number 0"]),
        ({"more": b"\x08"}, ["entry of", "cut off"]),
        ({"more": b"\x08" + b"\xff" * 10}, ["entry of", "more than 64 bits"]),
        ({"more": b"\x08" + b"\xff" * 9 + b"\2"}, ["entry of", "more than 64 bits"]),
    ],
)
def test_bad_entries(tmp_path, made, parts):
    prefix = bundle(tmp_path, (b"a/b", entry(bytes(8), **made)))
    fails(prefix, "tensor 'a/b'", *parts)


def test_names(tmp_path):
    good = entry(bytes(8))
    fails(bundle(tmp_path, (b"\xff", good)), "b'\\xff'", "not UTF-8")
    long = bundle(tmp_path, (b"two\nlines" + b"x" * 5000, entry(bytes(8), dtype=0)))
    fails(long, "'two\\nlinesxxxx", "xxx...")


@pytest.mark.parametrize("dtype", [7, 20, 21])
def test_strings_are_left_out(tmp_path, dtype):
    text = (b"text", entry(b"", (2**60,), dtype, 99, -1, 2**60))
    prefix = bundle(tmp_path, text, (b"x", entry(bytes(8))))
    same(read_all(prefix), {"x": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (b"", ["0 data files"]),
        (header(-1), ["-1 data files"]),
        (header(2**40), ["data files"]),
        (header(endianness=1), ["big-endian"]),
        (header(needed=2), ["version 2", "another TensorFlow"]),
        (b"\x0a\x00", ["no checkpoint", "expected an integer"]),
        (b"\xff", ["no checkpoint", "cut off"]),
    ],
)
def test_bad_headers(tmp_path, head, parts):
    fails(bundle(tmp_path, head=head), "model.index", *parts)


def test_missing_files(tmp_path):
    prefix = bundle(tmp_path, (b"x", entry(bytes(8))), head=header(2))
    file = "model.data-00000-of-00002"
    fails(prefix, file, "no such file", "model.index", "tensor 'x'")
    (tmp_path / file).mkdir()
    fails(prefix, file, "no regular file")
    fails(tmp_path / "other", "other.index", "no such file")
    fails(tmp_path / "nul\0", "cannot be read")
    (tmp_path / "other.index").mkdir()
    fails(tmp_path / "other", "no regular file")


def test_a_data_file_without_tensors_may_be_missing(tmp_path):
    prefix = bundle(tmp_path, (b"x", entry(bytes(8))), head=header(2))
    (tmp_path / "model.data-00000-of-00001").rename(f"{prefix}.data-00000-of-00002")
    same(read_all(prefix), {"x": np.zeros(2, np.float32)})


HEAD = [(b"", header())]
X = (b"x", entry(bytes(8)))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["ends with the bytes ;", "cut off"]),
        (b"{}", ["ends with the bytes 7b 7d;"]),
        (bytes(100), ["ends with the bytes 00 00"]),
        (table([HEAD])[:-1], ["ends with"]),
        (table([HEAD])[8:], ["block", "copy it again"]),
        (table([]), ["is empty"]),
        (table([[]]), ["is empty"]),
        (table([[X]]), ["begins with b'x'"]),
        (table([HEAD], kind=1), ["compressed with Snappy", "save it again"]),
        (table([HEAD], kind=7), ["compressed with the method 7"]),
        (table([[*HEAD, X, X]]), ["not in order"]),
        (table([[*HEAD, X], [X]]), ["not in order"]),
        (table([[*HEAD, X, (b"a", X[1])]]), ["not in order"]),
        (table([b""]), ["shorter than its list"]),
        (table([b"\xff" * 4]), ["shorter than its list"]),
        (table([b"\1\0\0" + struct.pack("<2I", 0, 1)]), ["reaches behind its end"]),
        (table([b"\0\1\0" + struct.pack("<2I", 0, 1)]), ["reaches behind its end"]),
        (table([b"\0\0\1" + struct.pack("<2I", 0, 1)]), ["reaches behind its end"]),
        (table([b"\0\xff" + struct.pack("<2I", 0, 1)]), ["reaches behind its end"]),
        (table([HEAD], handles=[b""]), ["an integer is cut off"]),
        (table([HEAD], handles=[varint(0) + varint(2**60)]), ["reaches behind"]),
        (table([HEAD], handles=[varint(2**60) + varint(9)]), ["reaches behind"]),
        (table([HEAD], handles=[varint(0) + varint(3)]), ["damaged (its checksum"]),
        (
            table([HEAD], handles=[varint(0) + varint(len(pairs_block(HEAD)))] * 2),
            ["overlap"],
        ),
        (
            b"\xff" * 40 + table([HEAD])[-8:],
            ["block at byte 0 is damaged (an integer has more than 64 bits)"],
        ),
    ],
)
def test_bad_tables(tmp_path, content, parts):
    (tmp_path / "model.index").write_bytes(content)
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(8))
    fails(tmp_path / "model", "model.index", *parts)


def test_keys_that_grow(tmp_path):
    # 60 kB that would be 10^8 bytes of names
    block = varint(0) + varint(20_000) + varint(0) + b"x" * 20_000
    for at in range(5000):
        block += varint(20_000) + varint(5) + varint(0) + b"%05d" % at
    (tmp_path / "x.index").write_bytes(table([block + struct.pack("<2I", 0, 1)]))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="its keys have over 64 times its size"):
            list(read_table(tmp_path / "x.index"))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_fields_of_fixed_size():
    message = b"\x09" + struct.pack("<Q", 2**63) + b"\x15" + struct.pack("<I", 7)
    assert list(fields(message)) == [(1, 2**63), (2, 7)]
    with pytest.raises(ValueError, match="field 1 has 8 bytes, 7 are left"):
        list(fields(message[:8]))


@pytest.mark.parametrize("value", [0, 127, 128, 2**32, 2**64 - 1])
def test_integers_of_any_length(value):
    assert read_varint(b"?" + varint(value) + b"?", 1) == (
        value,
        1 + len(varint(value)),
    )
