"""Integer arithmetic of tiles and write units, axis by axis: an answer costs the same for any size of image."""

from tilewright.geometry.intervals import Interval, Region, element_count, extents_of, intersection, relative_to
from tilewright.geometry.product import position_of, ranks_in
from tilewright.geometry.relation import GridRelation
from tilewright.geometry.tile_information import TileInformation
from tilewright.geometry.tiling import AxisTiling
from tilewright.geometry.units import AxisUnits, cells_end_on_borders

__all__ = [
    "AxisTiling",
    "AxisUnits",
    "GridRelation",
    "Interval",
    "Region",
    "TileInformation",
    "cells_end_on_borders",
    "element_count",
    "extents_of",
    "intersection",
    "position_of",
    "ranks_in",
    "relative_to",
]
