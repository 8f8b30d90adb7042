"""Every damage to a folder is found and named."""

import json
import random

import pytest

from zlpr_jax.training._digests import (
    DIGESTS,
    Damaged,
    Unfinished,
    check_digests,
    write_digests,
)

BIG = 70_000  # over the size that is compared without digests too


@pytest.fixture
def folder(tmp_path):
    rng = random.Random(0)
    for name, size in {"a.json": 40, "d/x": 3000, "d/e/big": BIG, "empty": 0}.items():
        path = tmp_path / "step" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    write_digests(tmp_path / "step")
    return tmp_path / "step"


def names(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_an_untouched_folder_passes(folder):
    check_digests(folder)
    assert names(folder) == ["a.json", "d/e/big", "d/x", DIGESTS, "empty"]
    entries = json.loads((folder / DIGESTS).read_text())["files"]
    assert sorted(entries) == ["a.json", "d/e/big", "d/x", "empty"]
    write_digests(folder)
    check_digests(folder)


def test_every_file_removed_cut_or_flipped_is_named(folder):
    for name in ("a.json", "d/x", "d/e/big"):
        path = folder / name
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(Damaged, match=f"^{name} is missing$"):
            check_digests(folder)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Damaged, match=rf"^{name} is shorter .*\d+ bytes, not \d+"):
            check_digests(folder)
        path.write_bytes(whole + b"x")
        with pytest.raises(Damaged, match=f"^{name} is longer "):
            check_digests(folder)
        path.write_bytes(whole)
        flip(path, 77)
        with pytest.raises(Damaged, match=f"^{name} differs "):
            check_digests(folder)
        path.write_bytes(whole)
        check_digests(folder)


def test_without_digests_a_folder_is_unfinished(folder):
    (folder / DIGESTS).unlink()
    with pytest.raises(Unfinished):
        check_digests(folder)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_flipped_bit_in_any_byte_of_the_digests_is_found(folder, hashed):
    write_digests(folder, hashed=hashed)
    path = folder / DIGESTS
    whole = path.read_bytes()
    rng = random.Random(1)
    for byte in range(len(whole)):
        flip(path, 8 * byte + rng.randrange(8))
        with pytest.raises(Damaged):
            check_digests(folder, hashed=False)
        path.write_bytes(whole)
    check_digests(folder, hashed=hashed)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"files": 3}', b"\xff", b"null", b'{"files": {}}']
)
def test_digests_that_are_something_else_are_damaged(folder, text):
    (folder / DIGESTS).write_bytes(text)
    with pytest.raises(Damaged, match=r"^digests\.json differs"):
        check_digests(folder)


def test_unhashed_compares_sizes_and_small_files(folder):
    flip(folder / "d/e/big", 5)
    check_digests(folder, hashed=False)
    write_digests(folder, hashed=False)
    entries = json.loads((folder / DIGESTS).read_text())["files"]
    assert entries["d/e/big"] == [BIG, None]
    flip(folder / "d/e/big", 6)
    check_digests(folder)  # nothing to compare with
    with (folder / "d/e/big").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(Damaged, match="d/e/big is longer"):
        check_digests(folder, hashed=False)
    write_digests(folder, hashed=False)
    flip(folder / "a.json", 5)
    with pytest.raises(Damaged, match=r"^a\.json differs"):
        check_digests(folder, hashed=False)


def test_another_file_is_no_damage(folder):
    (folder / ".nfs000123").write_text("left by a file system")
    check_digests(folder)


def test_a_failed_write_leaves_no_digests(folder, monkeypatch):
    (folder / DIGESTS).unlink()
    monkeypatch.setattr("zlpr_jax.training._digests._render", lambda files: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_digests(folder)
    with pytest.raises(Unfinished):
        check_digests(folder)
