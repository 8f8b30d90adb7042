"""The copy task, against its definition row by row."""

import numpy as np
import pytest

from zlpr_jax.data.copying import (
    BEGIN,
    FIRST_SYMBOL,
    PAD,
    SEPARATOR,
    copy_rows,
    copy_vocabulary,
)


def parts(rows):
    """The x of every row; the row is checked to be what x makes it."""
    for tokens, targets in zip(
        rows.tokens.tolist(), rows.targets.tolist(), strict=True
    ):
        n = tokens.index(SEPARATOR) - 1
        x = tokens[1 : n + 1]
        padding = len(tokens) - 2 * n - 2
        assert tokens == [BEGIN, *x, SEPARATOR, *x, *[PAD] * padding]
        assert targets == [-1] * (n + 1) + x + [-1] * (padding + 1)
        yield tuple(x)


@pytest.mark.parametrize(
    ("lengths", "symbols"), [((4, 30), 32), ((1, 1), 1), ((3, 3), 5), ((1, 6), 2)]
)
def test_rows_copy(lengths, symbols):
    rows = copy_rows(300, lengths=lengths, symbols=symbols, seed=0)
    assert rows.tokens.shape == (300, 2 * lengths[1] + 2)
    assert rows.tokens.dtype == rows.targets.dtype == np.int32
    assert rows.segments is rows.positions is None
    found = list(parts(rows))
    assert {len(x) for x in found} == set(range(lengths[0], lengths[1] + 1))
    assert {one for x in found for one in x} == set(
        range(FIRST_SYMBOL, copy_vocabulary(symbols))
    )


def test_lengths_and_symbols_are_uniform():
    """Chi-square with 26 and 31 degrees of freedom: below 54 and 61 at 1e-3."""
    found = list(parts(copy_rows(4000, seed=3)))
    for values, kinds, limit in (
        ([len(x) - 4 for x in found], 27, 54.1),
        ([one - FIRST_SYMBOL for x in found for one in x], 32, 61.1),
    ):
        counts = np.bincount(values, minlength=kinds)
        expected = counts.sum() / kinds
        assert len(counts) == kinds
        assert ((counts - expected) ** 2 / expected).sum() < limit


def test_a_seed_gives_its_rows_and_no_others():
    first, again, other = (copy_rows(2000, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.targets, again.targets)
    # so that one is for training, the other for tests
    train, test = set(parts(first)), set(parts(other))
    assert len(train) > 1990
    assert len(train & test) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"symbols": 0},
        {"lengths": (0, 3)},
        {"lengths": (5, 4)},
    ],
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
        copy_rows(**{"count": 2, "seed": 0} | wrong)
