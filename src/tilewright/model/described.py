"""A model may know how it predicts: its axes, tiles and overlaps are taken where a user gives none."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tilewright.arguments import whole_numbers
from tilewright.errors import GeometryError

_PACKAGES = {"careamics": "tilewright.careamics.model"}
"""Modules that describe models, by the package in which the class of a model is; imported with the first such model."""
_CHECKPOINT_SUFFIX = ".ckpt"


@dataclass(frozen=True)
class DescribedModel:
    """Model that takes and returns the values of the data, and how it predicts.

    Parameters
    ----------
    model : lightning module, torch module, callable, or factory
        As for `Predictor`.
    axes : str, optional
        Axes of a source.
    tile_size, overlap : sequence of int, optional
        Per spatial axis, in the order (Z)YX.
    largest_overlap : int, optional
        Overlap where none is given: this, or half of a tile that is shorter.
    padding : {"reflect", "zeros"}
        As in `plan_write`.
    tile_multiple : int
        The extents of a tile must be multiples of this.
    """

    model: Any
    axes: str | None = None
    tile_size: Sequence[int] | None = None
    overlap: Sequence[int] | None = None
    largest_overlap: int | None = None
    padding: str = "reflect"
    tile_multiple: int = 1

    def overlap_of(self, tile_size: Sequence[int] | None) -> Sequence[int] | None:
        """Return the overlap of tiles for which the user gives none.

        Examples
        --------
        >>> DescribedModel(abs, "ZYX", largest_overlap=48).overlap_of((10, 64, 128))
        (4, 32, 48)
        """
        most = self.largest_overlap
        if self.overlap is not None or tile_size is None or most is None:
            return self.overlap
        return tuple(min(most, extent // 2 // 2 * 2) for extent in whole_numbers("tile_size", tile_size))

    def check_tile(self, tile_size: Sequence[int]) -> None:
        """Raise GeometryError for a tile that the model cannot take."""
        if any(extent % self.tile_multiple for extent in tile_size):
            raise GeometryError(
                f"tile_size must be multiples of {self.tile_multiple} for this model, which samples down as much, got "
                f"{tuple(tile_size)}"
            )


@runtime_checkable
class DescribesModel(Protocol):
    """Reference to a model that knows how the model predicts."""

    def describe_model(self) -> DescribedModel:
        """Return the model with its description."""


def described(model: Any) -> DescribedModel:
    """Return a model with its description; without one for a model that is not known to have any.

    Raises
    ------
    TypeError, ValueError
        If it is of a known package, and cannot predict as it is.
    ImportError
        If it is a checkpoint of CAREamics, and CAREamics is not installed.

    Examples
    --------
    >>> described(abs).axes is None
    True
    """
    if isinstance(model, DescribesModel):
        return model.describe_model()
    package = type(model).__module__.partition(".")[0]
    if isinstance(model, str | os.PathLike):
        if Path(model).suffix != _CHECKPOINT_SUFFIX:
            return DescribedModel(model)
        package = "careamics"
    if package not in _PACKAGES:
        return DescribedModel(model)
    known: DescribedModel = import_module(_PACKAGES[package]).describe(model)
    return known
