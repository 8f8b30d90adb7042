"""The copy task: a sequence of symbols to say again, of a length that varies."""

import numpy as np

from zlpr_jax.data.tokens import TokenRows

PAD, BEGIN, SEPARATOR = range(3)
FIRST_SYMBOL = 3


def copy_vocabulary(symbols: int) -> int:
    """The number of ids that `copy_rows` uses: the symbols and three others."""
    return FIRST_SYMBOL + symbols


def copy_rows(
    count: int,
    *,
    lengths: tuple[int, int] = (4, 30),
    symbols: int = 32,
    seed: int,
) -> TokenRows:
    """Rows `BEGIN x SEPARATOR x`, in which the second x is to be predicted.

    The n = |x| targets stand from `SEPARATOR` on: that predicts the first symbol, the
    last symbol but one predicts the last, and nothing else counts. So the offset that a
    model has to look back by, n, differs from row to row.

    Rows of different seeds have hardly any x in common: of a few thousand rows of
    `lengths=(4, 30)`, none or one.

    Args:
        count: Rows, >= 1.
        lengths: The least and the greatest n, each as likely as those between; >= 1.
        symbols: How many symbols there are, each as likely as another; >= 1.
        seed: Draws the rows.

    Returns:
        Rows of `2 lengths[1] + 2` tokens, padded with `PAD` at the end.

    Raises:
        ValueError: A number is out of range.

    Examples:
        >>> rows = copy_rows(1, lengths=(2, 3), symbols=9, seed=1)
        >>> rows.tokens.tolist()
        [[1, 7, 9, 2, 7, 9, 0, 0]]
        >>> rows.targets.tolist()
        [[-1, -1, -1, 7, 9, -1, -1, -1]]
    """
    least, most = lengths
    if not 1 <= least <= most:
        raise ValueError(
            f"lengths must be the least and the greatest, >= 1, got {lengths}."
        )
    for name, value in (("count", count), ("symbols", symbols)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}.")
    rng = np.random.default_rng(seed)
    n = rng.integers(least, most, count, endpoint=True)[:, None]
    drawn = rng.integers(FIRST_SYMBOL, copy_vocabulary(symbols), (count, most))

    place = np.arange(2 * most + 2)[None]
    # Place 1 + i holds symbol i, and so does place n + 2 + i.
    symbol = np.where(place <= n, place - 1, place - n - 2)
    copied = np.take_along_axis(drawn, symbol.clip(0, most - 1), axis=1)
    tokens = np.where(place < 2 * n + 2, copied, PAD)
    tokens = np.where(place == 0, BEGIN, np.where(place == n + 1, SEPARATOR, tokens))
    counts = (place > n) & (place <= 2 * n)
    targets = np.where(counts, np.roll(tokens, -1, axis=1), -1)
    return TokenRows(tokens=tokens.astype(np.int32), targets=targets.astype(np.int32))
