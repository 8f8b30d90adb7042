"""Text to sparse TF-IDF features, stored as JSON."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfidf:
    """A fitted TF-IDF transform: words and word pairs, 1 + log(count), unit rows.

    scikit-learn's `TfidfVectorizer(sublinear_tf=True)`, kept as two lists.

    Attributes:
        vocabulary: the terms in column order.
        idf: the weight of each term.
        ngram_range: shortest and longest term, in words.

    Examples:
        >>> tfidf = Tfidf.fit(["a red fish", "one red fish"], min_df=2)
        >>> tfidf.vocabulary
        ('fish', 'red', 'red fish')
        >>> tfidf.transform(["red"]).toarray().tolist()
        [[0.0, 1.0, 0.0]]
        >>> Tfidf.from_json(tfidf.to_json()) == tfidf
        True
    """

    vocabulary: tuple[str, ...]
    idf: tuple[float, ...]
    ngram_range: tuple[int, int] = (1, 2)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        max_features: int = 50_000,
        min_df: int = 2,
        ngram_range: tuple[int, int] = (1, 2),
    ) -> "Tfidf":
        """Choose the terms and their weights.

        Args:
            texts: the training texts.
            max_features: how many terms to keep, the most frequent ones.
            min_df: the least number of texts in which a term occurs.
            ngram_range: shortest and longest term, in words.

        Returns:
            The transform.

        Raises:
            InputError: no term is left.
        """
        # Lazily: scikit-learn takes a second to import and is an extra.
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=ngram_range,
            min_df=min_df,
            max_features=max_features,
        )
        try:
            vectorizer.fit(texts)
        except ValueError as error:
            raise InputError(
                f"{len(texts)} texts give no term that occurs in {min_df} of them "
                f"({error}): give more text, or lower min_df"
            ) from None
        return cls(
            vocabulary=tuple(str(name) for name in vectorizer.get_feature_names_out()),
            idf=tuple(float(weight) for weight in vectorizer.idf_),
            ngram_range=ngram_range,
        )

    @functools.cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=self.ngram_range,
            vocabulary=list(self.vocabulary),
        )
        vectorizer.idf_ = np.array(self.idf)
        return vectorizer

    def transform(self, texts: Sequence[str]) -> csr_array:
        """The features of texts.

        Args:
            texts: N texts.

        Returns:
            float32 [N, len(vocabulary)]; rows have length 1, or 0 without known terms.
        """
        if not texts:
            return csr_array((0, len(self.vocabulary)), dtype=np.float32)
        matrix = csr_array(self._vectorizer.transform(texts), dtype=np.float32)
        matrix.sort_indices()
        return matrix

    def to_json(self) -> dict[str, Any]:
        """The transform as a dict that `json.dumps` takes."""
        return {
            "vocabulary": list(self.vocabulary),
            "idf": list(self.idf),
            "ngram_range": list(self.ngram_range),
        }

    @classmethod
    def from_json(cls, value: object, *, source: str = "tfidf") -> "Tfidf":
        """The transform that `to_json` wrote; it gives the same bits.

        Args:
            value: what `json.load` returned.
            source: where it came from, for the error.

        Returns:
            The transform.

        Raises:
            InputError: a field is missing, unknown or of the wrong type.
        """
        try:
            if not isinstance(value, Mapping):
                raise TypeError("not an object")
            if set(value) != {"vocabulary", "idf", "ngram_range"}:
                raise ValueError(f"keys {', '.join(map(str, value))}")
            terms, idf = value["vocabulary"], value["idf"]
            shortest, longest = value["ngram_range"]
            if not terms or len(terms) != len(idf) or len(set(terms)) != len(terms):
                raise ValueError("vocabulary and idf are not lists of one length")
            if not all(isinstance(term, str) for term in terms):
                raise TypeError("a term is no string")
            return cls(
                vocabulary=tuple(terms),
                idf=tuple(float(weight) for weight in idf),
                ngram_range=(int(shortest), int(longest)),
            )
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{source}: {error}; expected an object with vocabulary, idf and "
                "ngram_range: write it again with Tfidf.to_json"
            ) from None
