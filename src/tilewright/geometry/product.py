"""Positions of cells on a grid, and their ranks in C order."""


def position_of(rank: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the position of the cell with a rank in C order, on a grid of ``counts`` cells per axis.

    Raises
    ------
    IndexError
        If the grid has no such cell.

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
        Indices of the box per axis.
    counts : tuple of int
        Number of cells of the whole grid per axis.

    Examples
    --------
    >>> ranks_in((range(0, 2), range(1, 3)), (2, 4))
    (1, 2, 5, 6)
    """
    ranks = [0]
    for indices, count in zip(ranges, counts, strict=True):
        ranks = [rank * count + index for rank in ranks for index in indices]
    return tuple(ranks)
