"""The options of an output are checked when they are passed."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from tilewright.arguments import whole_number
from tilewright.conversion import ValueRange
from tilewright.errors import DestinationError, GeometryError
from tilewright.ome.attributes import VERSIONS
from tilewright.ome.world import GIVES_NOTHING, UNKNOWN_WORLD, GivenWorld, World
from tilewright.plan import ImageAxes
from tilewright.plan.dtypes import dtype_name
from tilewright.stores.places import public_name

IF_EXISTS = ("fail", "overwrite", "overwrite-foreign", "resume")


@dataclass(frozen=True)
class OutputOptions:
    """Options of the array of an output.

    Parameters
    ----------
    compressors : object
        As in `zarr.create_array`, or ``"auto"`` for `default_compressor`.
    fill_value : scalar
        Value of elements that are not written.
    zarr_format : {3, 2}
        Version of the Zarr format.
    if_exists : {"fail", "overwrite", "overwrite-foreign", "resume"}
        What to do if the output exists. ``"overwrite"`` replaces an output of tilewright, ``"overwrite-foreign"``
        any Zarr group or array.
    names_dimensions : bool
        Whether to store the axes as dimension names, and as those of an image of OME-Zarr; format 2 has no names.
    given : GivenWorld
        Physical metadata that the user gives.
    ome_version : {"0.4", "0.5", "0.6"}, optional
        Version of OME-Zarr; by default 0.4 in format 2, and 0.5 in format 3.
    world : World
        Physical metadata of the source.
    is_label : bool
        Whether the output labels the image around it.
    value_range : ValueRange, optional
        Values of the model that are mapped onto the data type.
    """

    compressors: Any = "auto"
    fill_value: Any = 0
    zarr_format: int = 3
    if_exists: str = "fail"
    names_dimensions: bool = True
    given: GivenWorld = GIVES_NOTHING
    ome_version: str | None = None
    world: World = UNKNOWN_WORLD
    is_label: bool = False
    value_range: ValueRange | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "zarr_format", whole_number("zarr_format", self.zarr_format, 2))
        if self.zarr_format > 3:
            raise GeometryError(f"zarr_format must be 2 or 3, got {self.zarr_format}")
        if not isinstance(self.if_exists, str) or self.if_exists not in IF_EXISTS:
            raise ValueError(f"if_exists must be one of {IF_EXISTS}, got {self.if_exists!r:.80}")
        versions = VERSIONS[self.zarr_format]
        if self.ome_version is None:
            object.__setattr__(self, "ome_version", versions[0])
        elif self.ome_version not in versions:
            raise GeometryError(
                f"ome_version must be one of {versions} for Zarr format {self.zarr_format}, got "
                f"{self.ome_version!r:.80}"
            )

    def for_image(self, axes: str, world: World, *, is_label: bool = False) -> "OutputOptions":
        """Return the options for a source with these axes and physical metadata.

        Raises
        ------
        GeometryError
            If what the user gives does not fit the axes.
        """
        self.given.on(axes)
        return replace(self, world=world, is_label=is_label)

    def scale_of(self, axes: ImageAxes) -> tuple[float, ...] | None:
        """Return the size of an element on each spatial axis of a source; None where one is unknown."""
        return self.world.updated(self.given.on(axes.names)).scale_of(axes.spatial)

    def for_dtype(
        self, dtype: Any, planned: str | None, value_range: Sequence[float] | None
    ) -> "tuple[str | None, OutputOptions]":
        """Return the data type that is chosen, None without one, and the options with the range that is mapped onto it.

        Parameters
        ----------
        dtype, value_range
            As in `predict_to_zarr`.
        planned : str, optional
            The data type of a plan that is to be executed.
        """
        chosen = None if dtype is None else output_dtype(dtype)
        self.check_dtype(chosen or "float64")
        return chosen, replace(self, value_range=ValueRange.of(value_range, chosen or planned))

    @property
    def overwrites(self) -> bool:
        """Whether an existing output is replaced."""
        return self.if_exists.startswith("overwrite")

    @property
    def overwrites_foreign(self) -> bool:
        """Whether Zarr nodes of other programs are replaced too."""
        return self.if_exists == "overwrite-foreign"

    def check_dtype(self, dtype: str) -> None:
        """Raise GeometryError if zarr refuses the fill value or the compressors for a data type."""
        fill_value = self.fill_value
        is_number = isinstance(fill_value, Number | np.generic) and not isinstance(fill_value, complex)
        if not is_number or not self._is_taken(dtype, fill_value=fill_value):
            raise GeometryError(f"fill_value must be a number that an array of {dtype} holds, got {fill_value!r:.80}")
        if isinstance(self.compressors, str) and self.compressors == "auto":
            return
        if not self._is_taken(dtype, compressors=self.compressors):
            example = "3, such as BloscCodec()" if self.zarr_format == 3 else "2, such as numcodecs.Blosc()"
            raise GeometryError(
                f"compressors must be 'auto', None, or what zarr.create_array takes for Zarr format {example}, got "
                f"{self.compressors!r:.80}"
            )

    def _is_taken(self, dtype: str, **options: Any) -> bool:
        """Tell whether zarr creates an array with these options."""
        version: Any = self.zarr_format
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                zarr.create_array(MemoryStore(), shape=(1,), chunks=(1,), dtype=dtype, zarr_format=version, **options)
        except Exception:
            # Codecs may raise any error.
            return False
        return True

    def check_shards(self, shards: object) -> None:
        """Raise GeometryError for shards in Zarr format 2."""
        if shards is not None and self.zarr_format == 2:
            raise GeometryError(f"Zarr format 2 has no shards, got shards={shards!r}; use zarr_format=3 or shards=None")


def output_dtype(dtype: Any) -> str:
    """Return the NumPy name of a data type, or raise GeometryError where the output cannot have it.

    Examples
    --------
    >>> output_dtype("<f4"), output_dtype(float)
    ('float32', 'float64')
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        # Other libraries use the same names: torch.float16.
        name = str(dtype).rpartition(".")[2]
    if name.startswith("complex"):
        raise GeometryError(f"dtype must be that of bools, whole numbers or floats, got {name!r}")
    return dtype_name(name)


def checked_path(file_path: Any) -> Path:
    """Return the path of an output file or folder; raise DestinationError where it is empty, or a URL."""
    if not isinstance(file_path, str | os.PathLike):
        raise TypeError(f"file_path must be a path, got {type(file_path).__name__}: {file_path!r:.80}")
    text = os.fspath(file_path)
    if not isinstance(text, str) or not text:
        raise DestinationError(f"file_path must be a local path, got {text!r:.200}")
    if "://" in text:
        raise DestinationError(f"file_path {public_name(text)!r} is a URL; give a local path")
    return Path(text).expanduser()
