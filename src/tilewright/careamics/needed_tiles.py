"""A data loader of CAREamics gets the tiles that a run still needs, and no others, in the same batches as all tiles."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from torch.utils.data import Dataset, Subset

from tilewright.datasets.open_tiles import OpenTiles


class NeededTiles(Dataset[Any]):
    """Dataset of CAREamics, without the items that are complete.

    Parameters
    ----------
    dataset : CareamicsDataset
        All items.
    open_tiles : OpenTiles
        The items that are needed, once the run has begun.
    begin : callable
        Is called before the first use: then the model has its weights, and the data loader reads nothing yet.
    returns_all : bool
        Whether the trainer returns predictions of all items. Then one is predicted where none is needed: else Lightning
        returns nothing.
    """

    def __init__(
        self, dataset: Any, open_tiles: OpenTiles, begin: Callable[[], object], *, returns_all: bool = False
    ) -> None:
        self.dataset = dataset
        self._open_tiles = open_tiles
        self._begin = begin
        self._returns_all = returns_all

    @cached_property
    def needed(self) -> list[int]:
        """The needed items."""
        self._begin()
        return list(self._open_tiles.needed(range(len(self.dataset))))

    @property
    def numbers(self) -> list[int]:
        """The items that are predicted."""
        return self.needed or [0] * self._returns_all

    def left_out(self) -> Iterator[int]:
        """Iterate over the items that are not needed."""
        needed = set(self.needed)
        return (number for number in range(len(self.dataset)) if number not in needed)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.numbers[index]]

    def __getattr__(self, name: str) -> Any:
        # What the modules of CAREamics ask their dataset for: the normalisation, say.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __reduce__(self) -> tuple[type[Subset[Any]], tuple[Any, list[int]]]:
        # A data-loader worker knows what is needed, and begins no run.
        return Subset, (self.dataset, self.numbers)
