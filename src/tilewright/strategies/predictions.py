"""Whatever a trainer returns of tiles becomes arrays and their tile information, or an error that says what it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.errors import ModelOutputError

FIELDS = ("array_shape", "last_tile", "overlap_crop_coords", "stitch_coords", "sample_id")


def tiles_and_information(prediction: Any, batch: Any) -> tuple[AnyArray, list[Any]]:
    """Return predicted tiles and where they belong.

    Parameters
    ----------
    prediction : tensor, array, or (tiles, infos)
        What the prediction step returned.
    batch : (tiles, infos)
        What it was given; its tile information counts where the prediction has none.

    Returns
    -------
    tiles : array
        (B, C, (Z), Y, X).
    infos : list of TileInformation
        One per tile.

    Raises
    ------
    TypeError
        If neither has tile information.
    ModelOutputError
        If the prediction has too few axes, or is not made of numbers.
    ValueError
        If there are more or fewer tiles than tile information.
    """
    tiles, infos = prediction, None
    for candidate in (prediction, batch):
        if isinstance(candidate, tuple | list) and len(candidate) >= 2 and _are_infos(candidate[1]):
            infos = list(candidate[1])
            if candidate is prediction:
                tiles = candidate[0]
            break
    if infos is None:
        raise TypeError(
            "neither the prediction nor the batch has tile information: the data loader must yield (tiles, list of "
            f"TileInformation); the prediction is {type(prediction).__name__}, the batch {type(batch).__name__}"
        )
    if isinstance(tiles, tuple | list):
        raise TypeError("the prediction of a batch of tiles must be one tensor, or (tensor, list of TileInformation)")
    array = as_array(tiles)
    if array.ndim < 4 or array.dtype.kind not in "buif":
        raise ModelOutputError(
            f"the prediction must be (batch, channel, (Z), Y, X), and only numbers are stored; got {array.dtype} of "
            f"shape {array.shape}"
        )
    if len(array) != len(infos):
        raise ValueError(f"there are {len(array)} predicted tiles, but tile information of {len(infos)}")
    return array, infos


def as_array(values: Any) -> AnyArray:
    """Return a tensor or an array as a NumPy array; NumPy has no bfloat16, so that becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        values = values.numpy()
    return np.asarray(values)


def _are_infos(candidate: Any) -> bool:
    return (
        isinstance(candidate, Sequence)
        and len(candidate) > 0
        and all(all(hasattr(info, name) for name in FIELDS) for info in candidate)
    )
