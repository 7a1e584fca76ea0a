"""Positions on a grid and their ranks in C order are two names for the same thing."""


def position_of(rank: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the position of the cell with this rank in C order.

    Parameters
    ----------
    rank : int
        From 0 to the product of ``counts``, exclusive.
    counts : tuple of int
        The number of cells on each axis.

    Raises
    ------
    IndexError
        If there is no such cell.

    Examples
    --------
    >>> position_of(7, (2, 3, 4))
    (0, 1, 3)
    """
    remainder = rank
    position = []
    for count in reversed(counts):
        remainder, index = divmod(remainder, count)
        position.append(index)
    if remainder != 0:
        raise IndexError(f"there is no cell {rank} on a grid of {counts} cells")
    return tuple(reversed(position))


def ranks_in(ranges: tuple[range, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ranks of all cells of a box, in C order.

    Parameters
    ----------
    ranges : tuple of range
        The indices of the box on each axis.
    counts : tuple of int
        The number of cells of the whole grid on each axis.

    Examples
    --------
    >>> ranks_in((range(0, 2), range(1, 3)), (2, 4))
    (1, 2, 5, 6)
    """
    ranks = [0]
    for indices, count in zip(ranges, counts, strict=True):
        ranks = [rank * count + index for rank in ranks for index in indices]
    return tuple(ranks)
