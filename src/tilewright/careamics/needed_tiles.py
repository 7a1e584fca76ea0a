"""A data loader of CAREamics gets the tiles that a run still needs, and no others, in the same batches as all tiles."""

from collections.abc import Callable
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
    """

    def __init__(self, dataset: Any, open_tiles: OpenTiles, begin: Callable[[], object]) -> None:
        self.dataset = dataset
        self._open_tiles = open_tiles
        self._begin = begin

    @cached_property
    def numbers(self) -> list[int]:
        """The needed items."""
        self._begin()
        return list(self._open_tiles.needed(range(len(self.dataset))))

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
