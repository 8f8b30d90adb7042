"""What BERT makes of each single character, and words cut by that."""

import dataclasses
import functools
from typing import Any, Literal

from zlpr_jax.data._encoding import Pieces
from zlpr_jax.data._wordpiece import PREFIX, UNKNOWN

Kind = Literal["inner", "alone", "space", "deleted"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Characters:
    """The rules of a normalizer and a pre-tokenizer, found out character by character.

    BERT treats a character as it does whatever stands beside it, so each is asked once.

    Attributes:
        ids: The id of each token.
        normalizer: Of the library `tokenizers`.
        pre_tokenizer: Of the library `tokenizers`.
    """

    ids: dict[str, int]
    normalizer: Any
    pre_tokenizer: Any
    _known: dict[str, tuple[Kind, str]] = dataclasses.field(default_factory=dict)

    def look_up(self, character: str) -> tuple[Kind, str]:
        """What it is, and what it becomes, which may be several characters.

        "inner" continues a word, "alone" is a word, "space" ends one, and "deleted"
        disappears.
        """
        found = self._known.get(character)
        if found is None:
            # Between two letters: what splits them, and what is left of it?
            text = self.normalizer.normalize_str(f"a{character}a")
            parts = [part for part, _ in self.pre_tokenizer.pre_tokenize_str(text)]
            rest = "".join(parts)[1:-1]
            kind: Kind = "alone"
            if not rest:
                kind = "space" if len(parts) > 1 else "deleted"
            elif len(parts) == 1:
                kind = "inner"
            found = self._known[character] = kind, rest
        return found

    def split(self, text: str) -> Pieces:
        """Tokens of one character each, so that all of the text is in tokens.

        White space and what is deleted become [UNK]; what is deleted inside a word does
        not end it.
        """
        ids, starts, ends, words = pieces = Pieces([], [], [], [])
        unknown = self.ids[UNKNOWN]
        word, in_word = -1, False
        for place, character in enumerate(text):
            # The table first: a call for each character would take most of the time.
            kind, letters = self._known.get(character) or self.look_up(character)
            goes_on = in_word and kind in ("inner", "deleted")
            word += not goes_on
            in_word = goes_on or kind == "inner"
            for letter in letters:
                name = PREFIX + letter if goes_on else letter
                ids.append(self.ids.get(name, unknown))
                goes_on = kind == "inner"
            if not letters:
                ids.append(unknown)
            count = max(len(letters), 1)
            starts += [place] * count
            ends += [place + 1] * count
            words += [word] * count
        return pieces

    def split_unknown(self, text: str, pieces: Pieces) -> Pieces:
        """Pieces in which only what the vocabulary lacks is [UNK], not all of its word.

        As WordPiece: the longest piece that is known. Where none is, one character is
        [UNK], and the next goes on from there.
        """
        unknown = self.ids[UNKNOWN]
        if unknown not in pieces.ids:
            return pieces
        new = Pieces([], [], [], [])
        for number, start, end, word in zip(*pieces, strict=True):
            if number == unknown and end - start > 1:
                parts = self._longest(text, start, end)
            else:
                parts = [(number, start, end)]
            for part, first, last in parts:
                new.ids.append(part)
                new.starts.append(first)
                new.ends.append(last)
                new.words.append(word)
        return new

    @functools.cached_property
    def _limit(self) -> int:
        return max(map(len, self.ids))

    def _longest(self, text: str, start: int, end: int) -> list[tuple[int, int, int]]:
        letters, places = [], []
        for place in range(start, end):
            for letter in self.look_up(text[place])[1]:
                letters.append(letter)
                places.append(place)
        word = "".join(letters)
        parts, at = [], 0
        while at < len(word):
            prefix = PREFIX if at else ""
            stop = min(len(word), at + self._limit)
            while stop > at and prefix + word[at:stop] not in self.ids:
                stop -= 1
            piece = prefix + word[at:stop] if stop > at else UNKNOWN
            number, stop = self.ids[piece], max(stop, at + 1)
            parts.append((number, places[at], places[stop - 1] + 1))
            at = stop
        return parts
