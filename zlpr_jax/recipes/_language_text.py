"""Texts as a problem for language models: parts, vocabulary, rows."""

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax.data.text import Texts
from zlpr_jax.data.tokens import pack_documents
from zlpr_jax.data.vocabulary import END, SPECIAL, UNKNOWN, Vocabulary
from zlpr_jax.recipes._language import Problem
from zlpr_jax.recipes._language_results import Column
from zlpr_jax.recipes.synthesizer_text import Config

# Which documents validate and test never depends on a seed.
SPLIT_SEED = 0
WORDS = 5000
# Tokens of a test text that are kept for `zlpr-jax show`.
SHOWN = 24


def make_problem(config: Config, texts: Texts) -> Problem:
    """Split documents, choose the vocabulary and pack rows.

    Raises:
        InputError: If the text is too short.
    """
    parts = split(texts, config)
    vocabulary = choose_vocabulary(parts[0], config)
    encoded = [[vocabulary.encode(text) for text in part] for part in parts]
    rows = [pack_documents(part, config.length, end=END) for part in encoded]
    tokens = np.concatenate(encoded[2])
    unknown = float((tokens == UNKNOWN).mean()) if len(tokens) else 0.0
    columns = [
        Column("held-out\nperplexity ↓", "validation", "perplexity", 2),
        Column("test\nperplexity ↓", "test", "perplexity", 2),
    ]
    if config.level == "character":
        columns.append(Column("test bits per\ncharacter ↓", "test", "bits", 3))
    return Problem(
        data=f"the texts of {texts.path}",
        about=f"{len(vocabulary) - len(SPECIAL):,} {config.level}s are known, "
        f"{unknown:.1%} of the {len(tokens):,} in the test text are not",
        training=rows[0],
        validation=rows[1],
        test=rows[2],
        vocabulary=len(vocabulary),
        max_length=config.length,
        headline=("perplexity", "min"),
        columns=tuple(columns),
        entries={"unknown": unknown, "shown": _shown(vocabulary, encoded[2], config)},
        files={"vocabulary.json": vocabulary.to_json()},
    )


def split(texts: Texts, config: Config) -> tuple[list[str], list[str], list[str]]:
    """Training, validation and test documents, always the same ones.

    Raises:
        InputError: If there is nothing for one of them.
    """
    documents = texts.documents
    if len(documents) == 1:
        (text,) = documents
        first = _cut(text, 1 - config.validation - config.test, config.level)
        second = _cut(text, 1 - config.test, config.level)
        parts = [text[:first]], [text[first:second]], [text[second:]]
        if not all(part[0].strip() for part in parts):
            raise InputError(
                f"{texts.path}: {len(text)} characters are too few to hold out parts "
                "for validation and test: give a longer text."
            )
        return parts
    order = np.random.default_rng(SPLIT_SEED).permutation(len(documents)).tolist()
    test, validation = (
        max(1, round(share * len(documents)))
        for share in (config.test, config.validation)
    )
    if len(documents) <= test + validation:
        raise InputError(
            f"{texts.path}: {len(documents)} documents are too few to hold out "
            f"{validation} for validation and {test} for the test: give more of them, "
            "or a single one, which is cut."
        )
    chosen = order[:test], order[test : test + validation], order[test + validation :]
    test_part, held_out, training = ([documents[i] for i in sorted(c)] for c in chosen)
    return training, held_out, test_part


def choose_vocabulary(training: list[str], config: Config) -> Vocabulary:
    """The tokens that occur often enough, of the most frequent ones."""
    size = config.vocabulary_size
    if size is None and config.level == "word":
        size = WORDS
    vocabulary = Vocabulary.build(training, config.level, size=size)
    ids = np.concatenate([vocabulary.encode(text) for text in training])
    counts = np.bincount(ids, minlength=len(vocabulary))[len(SPECIAL) :]
    often = len(SPECIAL) + int((counts >= config.min_count).sum())
    if often == len(SPECIAL):
        raise InputError(
            f"no {config.level} occurs {config.min_count} times in the training part: "
            "give more text, or a lower --min-count."
        )
    return Vocabulary(config.level, vocabulary.tokens[:often])


def _cut(text: str, share: float, level: str) -> int:
    """Where a share of a text ends, at the end of a word if words are tokens."""
    place = round(share * len(text))
    if level == "word" and text[place - 1 : place].isalnum():
        while text[place : place + 1].isalnum():
            place += 1
    return place


def _shown(
    vocabulary: Vocabulary, test: list[npt.NDArray[np.int32]], config: Config
) -> dict[str, list[int] | list[str]]:
    """The known beginning of a test text, a whole one if there is, for `show`."""
    most = min(SHOWN, config.length - 1)
    known = [tokens[:most][(tokens[:most] != UNKNOWN).cumprod() > 0] for tokens in test]
    whole = [len(some) == len(tokens) for some, tokens in zip(known, test, strict=True)]
    _, best = max(
        zip(whole, known, strict=True), key=lambda pair: (pair[0], len(pair[1]))
    )
    tokens = [END, *best.tolist()]
    return {"tokens": tokens, "labels": [vocabulary.tokens[token] for token in tokens]}
