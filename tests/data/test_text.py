"""Texts from files and folders, and sources that are refused."""

import bz2
import gzip
import json
import os

import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data.text import read_texts

TEXT = "Tëxt, 漢字 👍\u2028 and a form\x0cfeed\r\nsecond line\n\n\tlast \r"
UNIX = TEXT.replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["a.txt", "a.TEXT", "b.md", "a.b.txt"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_a_file_is_one_document(tmp_path, name, pack):
    ending = {bytes: "", gzip.compress: ".gz", bz2.compress: ".bz2"}[pack]
    path = tmp_path / (name + ending)
    path.write_bytes(pack(TEXT.encode()))
    texts = read_texts(str(path))
    assert texts.documents == (UNIX,)
    assert texts.path == str(path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone")
    assert read_texts(path).documents == ("one",)


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_line_of_jsonl_is_a_document(tmp_path, escaped, line_end):
    path = tmp_path / "a.jsonl"
    records = [{"text": TEXT}, {"text": "b", "id": 3, "labels": []}, {"text": " c"}]
    lines = [json.dumps(record, ensure_ascii=escaped) for record in records]
    lines.insert(1, "  ")
    path.write_bytes((line_end.join(lines) + line_end).encode())
    assert read_texts(path).documents == (UNIX, "b", " c")


def test_a_folder_has_a_document_for_each_text(tmp_path):
    for name in ("b.txt", "a.txt", "c.TXT"):
        (tmp_path / name).write_text(name)
    (tmp_path / "aa.txt.gz").write_bytes(gzip.compress(b"packed\r\n"))
    for other in ("README.md", ".hidden.txt", "d.jsonl"):
        (tmp_path / other).write_text("other")
    (tmp_path / "sub.txt").mkdir()
    texts = read_texts(tmp_path)
    assert texts.documents == ("a.txt", "packed\n", "b.txt", "c.TXT")
    assert texts.path == str(tmp_path)


def test_a_pipe_needs_no_extension(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe\r\n")
    os.close(writing)
    assert read_texts(f"/dev/fd/{reading}").documents == ("from a pipe\n",)
    os.close(reading)


def fails(path, *parts):
    with pytest.raises(InputError) as caught:
        read_texts(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message, message


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"", ["is empty"]),
        ("a.txt", b" \r\n\t", ["is empty"]),
        ("a.txt", b"one\nt\xebxt", ["a.txt:2: byte 0xeb is not UTF-8", "iconv"]),
        ("a.jsonl", b'{"text": "t\xebxt"}', ["a.jsonl:1: byte 0xeb is not UTF-8"]),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], ["damaged", "copy it again"]),
        ("a.txt.gz", gzip.compress(b" "), ["is empty"]),
        ("a.csv", b"text", [".txt, .text, .md or .jsonl", "convert"]),
        ("a.csv.gz", gzip.compress(b"text"), [".txt, .text, .md or .jsonl"]),
        ("novel", b"text", [".txt, .text, .md or .jsonl", "rename"]),
        ("a.jsonl", b"\n\n", ["is empty"]),
        ("a.jsonl", b'{"text": "a"}\n\n{"txt": "b"}', [":3:", 'no string "text"']),
        ("a.jsonl", b'{"text": 5}', [":1:", 'no string "text"', '{"text": "a fine']),
        ("a.jsonl", b'{"text": null}', [":1:", 'no string "text"']),
        ("a.jsonl", b'["text"]', [":1:", 'no string "text"']),
        ("a.jsonl", b'"text"', [":1:", 'no string "text"']),
        ("a.jsonl", b'{"text": "a"', [":1:", "is not JSON"]),
        ("a.jsonl", b'{"text": "a"}\nplain', [":2:", "is not JSON"]),
        ("a.jsonl", b"[" * 100_000, [":1:", "is not JSON"]),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", [":1:", "is not JSON"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": " "}', [":2:", "is empty", "remove"]),
        ("a.jsonl", b'{"text": "a\\ud83d"}', [":1:", "'\\ud83d'", "surrogate"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_refused(tmp_path, name, content, parts):
    path = tmp_path / name
    path.write_bytes(content)
    fails(path, *parts)


def test_sources_that_are_not_there(tmp_path):
    fails(tmp_path / "no.txt", "no such file")
    fails(tmp_path / "no", "no such file")
    fails(tmp_path / ("n" * 300 + ".txt"), "cannot be read")
    fails(tmp_path, "holds no .txt file")
    (tmp_path / "a.md").write_text("text")
    fails(tmp_path, "holds no .txt file")


def test_a_bad_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(InputError, match=r"b\.txt: is empty"):
        read_texts(tmp_path)
