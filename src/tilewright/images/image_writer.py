"""Writer of units that are whole images: the tiles are stitched, and a function of the user writes the image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewright.assemble import AnyArray
from tilewright.errors import ImageWriteError, TilesGoneError
from tilewright.images.lazy_image import is_lazy
from tilewright.images.stitch_lazily import Fetch, stitched_lazily
from tilewright.images.stitching import ImageStitching
from tilewright.ledger.receipts import UnitReceipt
from tilewright.objects.unit_writer import StoredUnit
from tilewright.stores.places import without_secrets

WriteFunc = Callable[..., Any]
"""What writes an image: called with ``file_path``, ``img``, and further keywords."""


@dataclass(frozen=True)
class ImageWriter:
    """Writer of complete images.

    Parameters
    ----------
    write_func : callable
        Writes an image. Where it takes a lazy image, that is stitched while it writes.
    write_func_kwargs : dict
        Further keywords of the function.
    images : dict
        Stitching and file of each image that is complete, by its number.
    fetch : callable
        Turns what stands for some tiles into arrays, for a lazy image.
    """

    write_func: WriteFunc
    write_func_kwargs: dict[str, Any]
    images: dict[int, tuple[ImageStitching, Path]] = field(default_factory=dict)
    fetch: Fetch = list

    @property
    def is_lazy(self) -> bool:
        """Whether the tiles are fetched while the image is written."""
        return is_lazy(self.write_func)

    def write_tiles(self, unit: int, tiles: Mapping[int, Any]) -> StoredUnit:
        """Stitch and write an image.

        Raises
        ------
        ImageWriteError
            If the function, or the stitching, fails.
        """
        stitching, path = self.images[unit]
        values = list(tiles.values())
        try:
            image = stitched_lazily(stitching, values, self.fetch) if self.is_lazy else stitching.stitch(values)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write_func(file_path=path, img=image, **self.write_func_kwargs)
        except TilesGoneError:
            # Not the function has failed, but a worker.
            raise
        except Exception as error:
            raise write_error(stitching.name, path, f"{type(error).__name__}: {without_secrets(error)}") from error
        return StoredUnit(UnitReceipt(unit, object_count=1, stored_nbytes=0))

    def stored_tile(self, unit: int) -> AnyArray:
        """Refuse: an image has no coarser levels."""
        raise ValueError(f"image {unit} is no tile of a coarser level")


def write_error(name: str, path: Path, reason: str) -> ImageWriteError:
    """Return the error that an image could not be written."""
    return ImageWriteError(f"image {name} could not be written to {path}: {reason}")
