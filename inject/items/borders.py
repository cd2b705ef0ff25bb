"""Where a text can be cut: between two tokens that share no character, as the bytes of one emoji do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Characters = Sequence[tuple[int, int]]  # of each token of a text, in order: the characters [start, end) that it covers


def chunks(tokens: Characters, size: int, rest: bool) -> Iterator[tuple[int, int]]:
    """The characters [start, end) of consecutive chunks of a text, of `size` tokens each; the rest at its end if asked for.

    A chunk that would end within a character ends before it; a character of more than `size` tokens is a chunk by itself.

    >>> list(chunks([(0, 3), (3, 5), (5, 9), (9, 10), (10, 14)], 2, rest=False))
    [(0, 5), (5, 10)]
    """
    start = 0
    while start < len(tokens):
        end = _border(tokens, start, min(start + size, len(tokens)))
        if end == len(tokens) and end - start < size and not rest:
            return
        yield tokens[start][0], tokens[end - 1][1]
        start = end


def given_away(tokens: Characters, count: int) -> int:
    """The first character after `count` tokens, or after half of a text of fewer than twice as many tokens.

    Blanks that belong to no token, as tokenizers that trim them leave, are given away too.

    >>> given_away([(0, 3), (3, 5), (5, 9), (9, 10)], 1)
    3
    >>> given_away([(0, 3), (3, 5), (5, 9), (9, 10)], 50)
    5
    """
    split = min(count, len(tokens) // 2)
    while split and not _is_border(tokens, split):
        split -= 1
    return tokens[split][0]


def _border(tokens: Characters, start: int, end: int) -> int:
    """The last border in (start, end], or else the first after it."""
    for border in range(end, start, -1):
        if _is_border(tokens, border):
            return border
    return next(border for border in range(end + 1, len(tokens) + 1) if _is_border(tokens, border))


def _is_border(tokens: Characters, index: int) -> bool:
    return index in (0, len(tokens)) or tokens[index][0] >= tokens[index - 1][1]
