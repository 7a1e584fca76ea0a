"""How outputs are stored, and what happens to what is in their place, is checked where it is given."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.errors import GeometryError
from tilewright.plan.dtypes import dtype_name

IF_EXISTS = ("fail", "overwrite", "overwrite-foreign", "resume")


@dataclass(frozen=True)
class OutputOptions:
    """How the arrays of an output are stored.

    Parameters
    ----------
    compressors : object
        As in `zarr.create_array`, but for ``"auto"``, which is that of `default_compressor`.
    fill_value : scalar
        What elements that were never written read as.
    zarr_format : {3, 2}
        The version of the format.
    if_exists : {"fail", "overwrite", "overwrite-foreign", "resume"}
        What to do where the output exists. ``"overwrite"`` replaces an output of tilewright, ``"overwrite-foreign"``
        any Zarr group or array.
    names_dimensions : bool
        Whether the axes of the plan are stored as the names of the dimensions; format 2 has none.

    Raises
    ------
    ValueError
        If there is no such format, or no such thing to do.
    """

    compressors: Any = "auto"
    fill_value: Any = 0
    zarr_format: int = 3
    if_exists: str = "fail"
    names_dimensions: bool = True

    def __post_init__(self) -> None:
        if self.zarr_format not in (2, 3):
            raise ValueError(f"zarr_format must be 2 or 3, got {self.zarr_format!r}")
        if self.if_exists not in IF_EXISTS:
            raise ValueError(f"if_exists must be one of {IF_EXISTS}, got {self.if_exists!r}")

    @property
    def overwrites(self) -> bool:
        """Whether what exists is replaced."""
        return self.if_exists.startswith("overwrite")

    @property
    def overwrites_foreign(self) -> bool:
        """Whether Zarr nodes are replaced that are no output of tilewright."""
        return self.if_exists == "overwrite-foreign"

    def check_shards(self, shards: object) -> None:
        """Raise GeometryError for shards where the format has none."""
        if shards is not None and self.zarr_format == 2:
            raise GeometryError(f"Zarr format 2 has no shards, got shards={shards!r}; use zarr_format=3 or shards=None")


def output_dtype(dtype: Any) -> str:
    """Return the NumPy name of whatever names a data type.

    Raises
    ------
    GeometryError
        If it names none that can be stored.

    Examples
    --------
    >>> output_dtype("<f4"), output_dtype(float)
    ('float32', 'float64')
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        # What is not NumPy's, such as torch.float16, may have the same name.
        name = str(dtype).rpartition(".")[2]
    return dtype_name(name)
