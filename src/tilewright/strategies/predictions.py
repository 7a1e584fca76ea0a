"""Whatever a trainer returns of tiles becomes arrays and their tile information, or an error that says what it is."""

from collections.abc import Sequence
from typing import Any

from tilewright.assemble import AnyArray
from tilewright.conversion import as_array, is_array
from tilewright.errors import GeometryError, ModelOutputError
from tilewright.geometry import TileInformation
from tilewright.images.stitching import is_information

REMEDY = (
    "the data loader must yield (tiles, list of TileInformation): give it collate_fn=tilewright.collate_tiles, and let "
    "the model return a tensor, or (tensor, list)"
)


def tiles_and_information(prediction: Any, batch: Any) -> tuple[AnyArray, list[TileInformation]]:
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
            infos = [_tile_information(info) for info in candidate[1]]
            if candidate is prediction:
                tiles = candidate[0]
            break
    if infos is None:
        raise TypeError(
            f"neither the prediction nor the batch has tile information; {REMEDY}; the prediction is "
            f"{type(prediction).__name__}, the batch {type(batch).__name__}"
        )
    if isinstance(tiles, tuple | list):
        raise TypeError("the prediction of a batch of tiles must be one tensor, or (tensor, list of TileInformation)")
    if not is_array(tiles):
        raise ModelOutputError(
            f"the prediction of a batch of tiles must be one tensor, or (tensor, list of TileInformation), got "
            f"{type(tiles).__name__}"
        )
    array = as_array(tiles)
    if array.ndim < 4 or array.dtype.kind not in "buif":
        raise ModelOutputError(
            f"the prediction must be (batch, channel, (Z), Y, X), and only numbers are stored; got "
            f"{type(tiles).__name__} of {array.dtype} and shape {array.shape}"
        )
    if len(array) != len(infos):
        raise ValueError(f"there are {len(array)} predicted tiles, but tile information of {len(infos)}")
    return array, infos


def _tile_information(info: Any) -> TileInformation:
    """Return tile information, also where another library has its own class for it."""
    if isinstance(info, TileInformation):
        return info
    try:
        return TileInformation(**{name: getattr(info, name) for name in TileInformation._fields})
    except GeometryError as error:
        raise TypeError(f"the tile information of the batch is broken: {error}; {REMEDY}") from error


def _are_infos(candidate: Any) -> bool:
    return isinstance(candidate, Sequence) and len(candidate) > 0 and all(map(is_information, candidate))
