"""English conversations, as the PyPI package chatterbot-corpus carries them."""

import hashlib
import importlib.util
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.data._packaged import INSTALL
from zlpr_jax.data.text import Texts

# Of the files' names and contents, one after the other in the order of their names.
SHA256 = "64f097bc7b12d06cd010a187df6b0f1daf72ddfe60ba8400f5a11747f42c8aeb"
_RELEASE = "1.3.3"


def read_chatterbot_conversations() -> tuple[tuple[str, ...], ...]:
    """898 short conversations in English, most of them a question and its answer.

    They come sorted by subject: shuffle them before you split them. The package repeats
    many, one of its files 105 times; here each is once, or a held-out part would hold
    what was trained on. One entry, which is no list of utterances, is left out.

    Returns:
        The utterances of each conversation, without white space around them.

    Raises:
        InputError: chatterbot-corpus is not installed, or its files are not the
            expected ones.

    Examples:
        >>> conversations = read_chatterbot_conversations()
        >>> len(conversations), conversations[10]
        (898, ('What language are you written in?', 'I am written in Python.'))

    References:
        https://github.com/gunthercox/chatterbot-corpus, written by its users, under a
        BSD licence.
    """
    import yaml

    contents = [yaml.safe_load(text) for text in _read_files()]
    conversations = [
        tuple(utterance.strip() for utterance in conversation)
        for content in contents
        for conversation in content["conversations"]
        if isinstance(conversation, list)
    ]
    return tuple(dict.fromkeys(conversations))


def read_chatterbot_texts() -> Texts:
    """The conversations as texts: a document each, with each utterance on a new line.

    Returns:
        898 documents, 95,539 characters. Some utterances are code, of several lines.

    Raises:
        InputError: As `read_chatterbot_conversations`.
    """
    documents = map("\n".join, read_chatterbot_conversations())
    return Texts(documents=tuple(documents), path="chatterbot-corpus")


def _read_files() -> list[str]:
    """The package's English files, found by path, in the order of their names."""
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the English conversations come with the package chatterbot-corpus, which "
            f"is not installed: {INSTALL}"
        )
    folder = Path(spec.submodule_search_locations[0], "data", "english")
    contents = [(path.name, path.read_bytes()) for path in sorted(folder.glob("*.yml"))]
    joined = b"".join(name.encode() + b"\0" + content for name, content in contents)
    digest = hashlib.sha256(joined).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{folder}: the SHA-256 of its {len(contents)} .yml files is {digest}, "
            f"expected {SHA256}: they were changed or are not of release {_RELEASE} of "
            f"chatterbot-corpus: {INSTALL}"
        )
    return [content.decode() for _, content in contents]
