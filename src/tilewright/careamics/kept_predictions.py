"""What CAREamics returns of a resumed run is whole: tiles that are not predicted again come from the outputs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from tilewright.assemble import AnyArray, slices_of
from tilewright.careamics.images import intervals_of
from tilewright.datasets.images import SourceImage
from tilewright.runs.report import Report


def kept_predictions(
    dataset: Any, numbers: Iterable[int], images: Sequence[SourceImage], reports: Sequence[Report]
) -> Iterator[Any]:
    """Iterate over predictions of tiles that are stored, as the module of CAREamics returns them, in batches of one.

    Parameters
    ----------
    dataset : CareamicsDataset
        All tiles.
    numbers : iterable of int
        The tiles that were not predicted.
    images : sequence of SourceImage
        The images of the dataset.
    reports : sequence of Report
        Reports of the outputs, which are complete.
    """
    by_source = {id(report.source): report for report in reports}
    for number in numbers:
        region = dataset[number][0]
        spec = region.region_spec
        image = images[int(spec["data_idx"])]
        crop, stitch = intervals_of(spec, "crop_coords"), intervals_of(spec, "stitch_coords")
        report = by_source[id(image.source)]
        window = dict(zip(image.source.axes.spatial, stitch, strict=True))
        values = _read(report, window, image.sample_indices(int(spec["sample_idx"])))
        tile: AnyArray = np.zeros((len(values), *region.data.shape[1:]), values.dtype)
        tile[(slice(None), *slices_of(tuple(crop)))] = values
        (batch,) = default_collate([(region,)])
        yield batch._replace(data=tile[np.newaxis])


def _read(report: Report, window: dict[str, tuple[int, int]], indices: dict[str, int]) -> AnyArray:
    """Return a window of one sample of an output, C(Z)YX."""
    names = report.plan.stored_axes or report.plan.axes
    selection = [slice(*window[name]) if name in window else indices.get(name, slice(None)) for name in names]
    read = np.asarray(report.array[tuple(selection)])
    left = [name for name in names if name not in indices]
    ordered: AnyArray = read.transpose([left.index(name) for name in "CZYX" if name in left])
    return ordered if "C" in left else ordered[np.newaxis]
