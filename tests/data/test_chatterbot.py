"""The conversations of chatterbot-corpus, and what is said without them."""

import importlib.util
import subprocess
import sys

import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data.chatterbot import (
    read_chatterbot_conversations,
    read_chatterbot_texts,
)


def test_conversations():
    conversations = read_chatterbot_conversations()
    assert len(conversations) == len(set(conversations)) == 898
    # The first file, ai.yml, and the last, trivia.yml, as they are written.
    assert conversations[0] == (
        "What is AI?",
        "Artificial Intelligence is the branch of engineering and science devoted to "
        "constructing machines that think.",
    )
    assert ("Hi, How is it going?", "Could be better.") in conversations
    # A number in quotes and an answer over two lines of the file stay text.
    questions = {conversation[0]: conversation[1:] for conversation in conversations}
    assert questions["What year was President John F. Kennedy assassinated?"] == (
        "1963",
    )
    assert max(map(len, conversations)) == 26
    assert min(map(len, conversations)) == 2
    every = [one for conversation in conversations for one in conversation]
    assert all(one == one.strip() and one for one in every)


def test_texts():
    texts = read_chatterbot_texts()
    assert len(texts.documents) == 898
    assert sum(map(len, texts.documents)) == 95_539
    assert "Hi, How is it going?\nCould be better." in texts.documents
    python = [
        document for document in texts.documents if "\ndef quicksort(" in document
    ]
    assert "    if len(arr) <= 1:\n        return arr\n" in python[0]


def test_neither_jax_nor_the_package_is_imported():
    code = (
        "import sys\n"
        "from zlpr_jax.data.chatterbot import read_chatterbot_texts\n"
        "print('yaml' in sys.modules)\n"
        "read_chatterbot_texts()\n"
        "print([m for m in ('jax', 'chatterbot_corpus') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:2] == ["False", "[]"]


def test_the_package_is_missing_or_another(tmp_path, monkeypatch):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError,
        match=r'chatterbot-corpus, which is not installed: pip install "zlpr-jax\[tr',
    ):
        read_chatterbot_conversations()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(InputError, match=r"english: the SHA-256 of its 0 \.yml .*pip"):
        read_chatterbot_texts()
    folder = tmp_path / "data" / "english"
    folder.mkdir(parents=True)
    (folder / "ai.yml").write_text("conversations:\n- - a\n  - b\n")
    with pytest.raises(InputError, match=r"its 1 \.yml files .*release 1\.3\.3 of"):
        read_chatterbot_texts()
