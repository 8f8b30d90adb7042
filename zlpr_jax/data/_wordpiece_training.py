"""A WordPiece vocabulary from texts."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

from zlpr_jax.data._wordpiece import LONGEST_WORD, PREFIX, SPECIAL, UNKNOWN
from zlpr_jax.data._wordpiece_backend import import_tokenizers, make_backend


def train_wordpiece(
    texts: Iterable[str],
    size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    isolate_chinese: bool = True,
    least: int = 2,
) -> tuple[str, ...]:
    """Make a WordPiece vocabulary: characters first, then the pairs that occur most.

    Each character is there as "a", which begins a word, and if it continues one as
    "##a" too. The most frequent are kept if not all have room; words with any other are
    left out. The rest of the room is for pairs of pieces, merged again and again.

    The same texts give the same vocabulary, in any order and process.

    Args:
        texts: Texts.
        size: How many tokens there are at most, with the 5 special ones, > 5.
        lowercase: As of `Tokenizer`.
        strip_accents: As of `Tokenizer`.
        isolate_chinese: As of `Tokenizer`.
        least: How often a pair must occur to be merged, >= 1.

    Returns:
        The tokens in the order of their ids: special ones, characters, merged pairs.
        Fewer than `size` if no pair is left.

    Raises:
        ValueError: `size` or `least` is too small, or there is nothing in the texts.

    Examples:
        >>> train_wordpiece(["low lower lowest", "new 新"], 20)[5:]
        ('e', 'l', 'n', 'o', 'r', 's', 't', 'w', '新', '##e', '##o', '##r', '##s',
        '##t', '##w')
    """
    if size <= len(SPECIAL):
        raise ValueError(
            f"size must be more than the {len(SPECIAL)} special tokens, got {size}."
        )
    if least < 1:
        raise ValueError(f"least must be >= 1, got {least}.")
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of texts, got one text.")
    library = import_tokenizers()
    backend = make_backend(
        {UNKNOWN: 0},
        lowercase=lowercase,
        strip_accents=strip_accents,
        isolate_chinese=isolate_chinese,
    )
    words = _count_words(texts, backend.normalizer, backend.pre_tokenizer)
    if not words:
        raise ValueError("there is no word in the texts: give some.")
    counts: collections.Counter[str] = collections.Counter()
    inner: set[str] = set()
    for word, times in words.items():
        for letter in word:
            counts[letter] += times
        inner.update(word[1:])
    alphabet: list[str] = []
    for letter in sorted(counts, key=lambda letter: (-counts[letter], letter)):
        forms = [letter, PREFIX + letter] if letter in inner else [letter]
        if len(SPECIAL) + len(alphabet) + len(forms) > size:
            break
        alphabet += forms
    alphabet.sort(key=lambda form: (len(form) > 1, form))
    # The trainer numbers characters in the order of a hash table that is seeded anew in
    # each process, and of pairs that are equally frequent takes the smaller numbers:
    # without this list each run gives another vocabulary.
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=least,
        special_tokens=[*SPECIAL, *alphabet],
        show_progress=False,
    )
    trained = library.Tokenizer(library.models.WordPiece(unk_token=UNKNOWN))
    trained.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    kept = {form for form in alphabet if len(form) == 1}
    known = {word: times for word, times in words.items() if kept.issuperset(word)}
    trained.train_from_iterator(_lines(known), trainer)
    ids = trained.get_vocab(with_added_tokens=False)
    return tuple(sorted(ids, key=ids.__getitem__))


def _count_words(
    texts: Iterable[str], normalizer: Any, pre_tokenizer: Any
) -> dict[str, int]:
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        clean = normalizer.normalize_str(text)
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(clean))
    # A longer one is never cut into pieces.
    return {word: counts[word] for word in sorted(counts) if len(word) <= LONGEST_WORD}


def _lines(words: dict[str, int]) -> Iterator[str]:
    """Each word as often as it occurs, some on a line."""
    for word, times in words.items():
        for done in range(0, times, 1000):
            yield " ".join([word] * min(1000, times - done))
