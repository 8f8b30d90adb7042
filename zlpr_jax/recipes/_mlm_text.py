"""Texts as a problem for masked language models: parts, tokenizer, encoder, rows."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data.lines import Document, Line, segment_lines, split_lines
from zlpr_jax.data.text import Texts
from zlpr_jax.data.tokenizer import (
    SPECIAL,
    Tokenizer,
    train_wordpiece,
    words_of_segmentation,
)
from zlpr_jax.data.word_rows import NO_WORD, WordRows, pack_words
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.pretrained import from_pretrained
from zlpr_jax.recipes.mlm import HEADS, LAYERS, WIDTH, Config
from zlpr_jax.tasks.masking import most_chosen

# Which documents are held out never depends on a seed.
SPLIT_SEED = 0
TOKENS = 8000
_CHUNK = 1024  # lines that are encoded at once

Ints = npt.NDArray[np.int32]


class Problem(NamedTuple):
    """What a masked language model learns.

    Attributes:
        data: What the rows are of, for messages; in the plural.
        about: A line about them, above the table.
        tokenizer: From text to tokens.
        network: The encoder's shape.
        params: What to begin with; `None` for random parameters. There may be no masked
            head in it.
        training: Rows to train on.
        validation: Rows that choose the parameters.
        places: Tokens hidden of a row, at most.
        special: Ids of the special tokens.
        unigram: What one reaches on the held-out rows who knows how often each token
            occurs in the training rows, and nothing else.
    """

    data: str
    about: str
    tokenizer: Tokenizer
    network: BertConfig
    params: dict[str, PyTree] | None
    training: WordRows
    validation: WordRows
    places: int
    special: tuple[int, ...]
    unigram: Mapping[str, float]

    def digest(self) -> str:
        """What changes with the rows, the tokenizer and the parameters."""
        digest = hashlib.sha256(repr(dataclasses.asdict(self.tokenizer)).encode())
        for rows in (self.training, self.validation):
            for array in (rows.tokens, rows.words):
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()


def make_problem(config: Config, texts: Texts) -> Problem:
    """Split documents, choose the tokenizer, read the encoder and pack rows.

    Raises:
        InputError: If the text is too short, or something does not fit it.
    """
    if config.segmentation is None:
        documents = split_lines(texts)
    else:
        documents = segment_lines(texts, config.segmentation)
    parts = split(documents, config.validation, texts.path)
    tokenizer, network, params = _encoder(config, parts[0])
    rows, unknown = [], 0.0
    for part in parts:
        encoded = list(itertools.starmap(_document, _encode(tokenizer, part)))
        ids = np.concatenate([tokens for tokens, _ in encoded])
        unknown = float((ids == tokenizer.unknown_id).mean()) if len(ids) else 1.0
        rows.append(
            pack_words(
                encoded,
                config.length,
                cls_id=tokenizer.cls_id,
                sep_id=tokenizer.sep_id,
                pad_id=tokenizer.pad_id,
            )
        )
        if not len(rows[-1]):
            what = "training" if len(rows) == 1 else "held-out"
            raise InputError(
                f"{texts.path}: the {what} part has no token that the vocabulary knows:"
                " give more text, or another vocabulary."
            )
    training, validation = rows
    return Problem(
        data=f"the texts of {texts.path}",
        about=f"{len(tokenizer):,} tokens are known, {unknown:.1%} of the held-out "
        f"ones are not; {len(training):,} rows of {config.length} tokens to train on, "
        f"{len(validation):,} held out",
        tokenizer=tokenizer,
        network=network,
        params=params,
        training=training,
        validation=validation,
        places=max(most_chosen(part, config.share) for part in rows),
        special=tuple(tokenizer.tokens.index(token) for token in SPECIAL),
        unigram=unigram(training, validation, len(tokenizer)),
    )


def split(
    documents: Sequence[Document], share: float, path: str
) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents, always the same ones.

    Raises:
        InputError: If there is nothing for one of them.
    """
    if len(documents) == 1:
        (lines,) = documents
        ends = np.cumsum([len(line.text) for line in lines])
        cut = int(np.searchsorted(ends, (1 - share) * ends[-1], side="right"))
        cut = min(max(cut, 1), len(lines) - 1)
        if cut < 1:
            raise InputError(
                f"{path}: it is a single line, of which nothing can be held out: "
                "give more text, or break it into lines."
            )
        return [lines[:cut]], [lines[cut:]]
    count = max(1, round(share * len(documents)))
    if count >= len(documents):
        raise InputError(
            f"{path}: {len(documents)} documents are too few to hold out {count}: give "
            "more of them, or a lower --validation."
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(documents)).tolist()
    held_out, training = sorted(order[:count]), sorted(order[count:])
    return [documents[i] for i in training], [documents[i] for i in held_out]


def unigram(training: WordRows, held_out: WordRows, size: int) -> dict[str, float]:
    """Scores of guessing each token by how often it occurs in the training rows.

    Each token counts once more than it occurs: one that does not has a chance too.
    """
    known, wanted = (
        rows.tokens[rows.words != NO_WORD] for rows in (training, held_out)
    )
    counts = np.bincount(known, minlength=size) + 1.0
    loss = -float(np.log(counts / counts.sum())[wanted].mean())
    accuracy = float((wanted == counts.argmax()).mean())
    return {"loss": loss, "perplexity": float(np.exp(loss)), "accuracy": accuracy}


def _encoder(
    config: Config, training: Sequence[Document]
) -> tuple[Tokenizer, BertConfig, dict[str, PyTree] | None]:
    """Tokenizer, shape and, if there are, parameters to begin with."""
    if config.encoder is not None:
        return _pretrained(config)
    lines = (line.text for document in training for line in document)
    if config.vocabulary is not None:
        tokenizer = Tokenizer.load(config.vocabulary, lowercase=config.lowercase)
    else:
        size = config.vocabulary_size or TOKENS
        tokens = train_wordpiece(lines, size, lowercase=config.lowercase)
        tokenizer = Tokenizer(tokens, lowercase=config.lowercase)
    width = config.width or WIDTH
    dropout = 0.1 if config.dropout is None else config.dropout
    network = BertConfig(
        vocabulary=len(tokenizer),
        width=width,
        layers=config.layers or LAYERS,
        heads=config.heads or HEADS,
        hidden=config.hidden or 4 * width,
        positions=config.positions or "learned",
        max_length=config.length,
        dropout=dropout,
        attention_dropout=dropout,
        pooler=False,
        masked_head=True,
    )
    return tokenizer, network, None


def _pretrained(config: Config) -> tuple[Tokenizer, BertConfig, dict[str, PyTree]]:
    folder = config.encoder
    assert folder is not None
    found = from_pretrained(folder, pooler=False)
    network = dataclasses.replace(found.config, masked_head=True)
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) > network.vocabulary:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the encoder "
            f"{network.vocabulary}: they do not belong together."
        )
    if config.length > network.max_length:
        if network.positions == "learned":
            raise InputError(
                f"{folder}: the encoder has {network.max_length} positions, which is "
                f"less than length = {config.length}: make that smaller."
            )
        network = dataclasses.replace(network, max_length=config.length)
    if config.dropout is not None:
        network = dataclasses.replace(
            network, dropout=config.dropout, attention_dropout=config.dropout
        )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), found.params)
    return tokenizer, network, params


def _encode(
    tokenizer: Tokenizer, documents: Sequence[Document]
) -> list[tuple[list[Ints], list[Ints]]]:
    """Ids and words of the lines of each document, without special tokens."""
    lines = [line for document in documents for line in document]
    ids: list[Ints] = []
    words: list[Ints] = []
    for start in range(0, len(lines), _CHUNK):
        chunk: Sequence[Line] = lines[start : start + _CHUNK]
        encodings = tokenizer.encode_batch([line.text for line in chunk])
        for line, encoding in zip(chunk, encodings, strict=True):
            own = encoding.words
            if line.segments is not None:
                own = words_of_segmentation(encoding, line.segments)
            unknown = encoding.ids == tokenizer.unknown_id
            ids.append(encoding.ids[1:-1])
            words.append(np.where(unknown, NO_WORD, own)[1:-1])
    stops = np.cumsum([len(document) for document in documents]).tolist()
    bounds = itertools.pairwise([0, *stops])
    return [(ids[a:b], words[a:b]) for a, b in bounds]


def _document(ids: list[Ints], words: list[Ints]) -> tuple[Ints, Ints]:
    """Lines one after the other; no word goes on in the next line."""
    count, numbered = 0, []
    for own in words:
        numbered.append(np.where(own >= 0, own + count, NO_WORD))
        count += int(own.max(initial=NO_WORD)) + 1
    empty = np.zeros(0, np.int32)
    return np.concatenate([empty, *ids]), np.concatenate([empty, *numbered])
