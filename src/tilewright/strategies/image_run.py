"""One image of a trainer: what is asked for, and how far its output is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray, crop
from tilewright.conversion import converted
from tilewright.datasets.tiled_image import TiledImage
from tilewright.errors import ModelOutputError, ResumeError, RunStoppedError, UnitGivenUpError
from tilewright.identity.models import ModelFacts
from tilewright.outputs.apart import check_apart
from tilewright.outputs.arrays import template_arrays
from tilewright.outputs.fingerprint import Fingerprint, fingerprint_of
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan import WritePlan, plan_for_tilings
from tilewright.plan.describe import describe_region
from tilewright.plan.request import Levels
from tilewright.provenance.document import Origin, Provenance
from tilewright.runs.beginning import Beginning
from tilewright.runs.output_run import OutputRun
from tilewright.runs.report import Report
from tilewright.runs.reporting.saving import SavedReport
from tilewright.runs.run import Run
from tilewright.sources.naming import zarr_output_names
from tilewright.strategies.trainer_strategy import Key

_MISSING_SHOWN = 3


def outputs_of(images: Sequence[TiledImage], folder: Path, options: OutputOptions, ledger: Path | None) -> list[Output]:
    """Return the output of each image, or raise OSError where one exists, is shared, or lies in a source."""
    sources = [image.source for image in images]
    outputs = [
        Output.at(folder / name, group, None if ledger is None else ledger / name / group)
        for name, group in zarr_output_names([source.address for source in sources])
    ]
    check_apart([target for output in outputs for target in output.targets(options)], sources)
    for output, source in zip(outputs, sources, strict=True):
        output.check(options)
        # There may be more files than one process can have open.
        source.close()
    return outputs


def pages_of(images: Sequence[TiledImage], folder: Path | None) -> list[Path | None]:
    """Return the HTML file for the report of each image; None where there is no folder for them."""
    names = zarr_output_names([image.source.address for image in images])
    return [None if folder is None else folder / f"{Path(name, group)}.html" for name, group in names]


@dataclass(frozen=True)
class AskedImage:
    """What a run of a trainer is asked to write of one image.

    Parameters
    ----------
    image : TiledImage
        The image and its tiles.
    channels, dtype, chunks, shards, window_nbytes, levels, labels
        As in `plan_write`.
    options : OutputOptions
        How the array is stored.
    model : ModelFacts
        What is known of the model.
    model_file : str
        Checkpoint that it was loaded from; empty without one.
    predicted_by : str
        Identity of the trainer.
    origin : Origin
        What all outputs of the trainer have in common.
    axes : {"STCZYX", "source"}
        The order of the axes of the output.
    """

    image: TiledImage
    channels: int
    dtype: str
    chunks: Sequence[int] | str
    shards: Sequence[int] | str | None
    options: OutputOptions
    window_nbytes: int | None
    model: ModelFacts
    model_file: str
    predicted_by: str
    origin: Origin
    levels: int | str
    labels: bool
    axes: str

    def plan(self, begun: WritePlan | None) -> WritePlan:
        """Return the plan; what an earlier run has chosen stays."""
        chunks, shards = self.chunks, self.shards
        levels: Levels = self.levels
        if begun is not None:
            levels = begun.factors if levels == "auto" else levels
            chunks = begun.asked_chunks if isinstance(chunks, str) else chunks
            shards = begun.asked_shards if isinstance(shards, str) else shards
        return plan_for_tilings(
            self.image.source.axes.output_names(self.channels),
            self.dtype,
            self.image.tilings(self.channels),
            chunks=chunks,
            shards=shards,
            window_nbytes=self.window_nbytes,
            levels=levels,
            labels=self.labels or self.options.is_label,
            scale=self.options.scale_of(self.image.source.axes),
            stored_axes=self.image.source.axes.own_order(self.channels) if self.axes == "source" else None,
        )

    def fingerprint(self, plan: WritePlan) -> Fingerprint:
        """Return all that the stored bytes follow from."""
        templates = template_arrays(plan, self.options)
        fingerprint = fingerprint_of(
            self.image.source, self.model.identity, self.predicted_by, plan, templates, self.options.value_range
        )
        self.image.source.close()
        return fingerprint

    def provenance(self, plan: WritePlan, fingerprint: Fingerprint) -> Provenance:
        """Return what makes the output."""
        return self.origin.of_prediction(plan, fingerprint, self.model, self.image.source.name, self.model_file)

    def continued(self, begun: WritePlan, plan: WritePlan) -> WritePlan:
        """Return the plan of the earlier run for the memory of this one."""
        return replace(begun, window_nbytes=plan.window_nbytes)


@dataclass
class ImageRun:
    """An image that is not complete: its output is locked, and written once the first tile is there."""

    image: TiledImage
    output_run: OutputRun
    saved: SavedReport
    plan: WritePlan | None = None
    is_resumed: bool = False

    @property
    def run(self) -> Run:
        """The loop that writes it, once it has begun."""
        return self.output_run.run

    @property
    def live_nbytes(self) -> int:
        """Bytes of its tiles that are held."""
        return 0 if self.plan is None else self.run.coordinator.live_nbytes

    def begin(self, beginning: Beginning) -> None:
        """Create the output, or take it up."""
        self.output_run.begin(beginning).complete_levels()
        self.output_run.tally.notes, self.output_run.tally.source = self.image.source.notes, self.image.source
        self.saved.so_far = self.output_run.report_so_far
        self.plan = beginning.plan

    def end(self, error: BaseException | None) -> None:
        """Let go of the output, and save its report."""
        self.output_run.close()
        self.saved.end(error)
        # A picture of it may have opened it.
        self.image.source.close()

    def dtype_and_channels(self, tiles: Sequence[AnyArray], asked_dtype: str | None) -> tuple[str, int]:
        """Return the data type and the channels of the output, or raise an error where tiles do not fit them."""
        first = tiles[0]
        channels = first.shape[0] if self.plan is None else self.plan.channels
        name, value_range = self.image.source.name, self.output_run.options.value_range
        if value_range is not None:
            value_range.check(first.dtype, f"a tile of {name}")
        for tile in tiles:
            if tile.shape[1:] != self.image.tile_size:
                raise ModelOutputError(
                    f"the tiles of {name} have the spatial size {self.image.tile_size}, but their prediction has "
                    f"{tile.shape[1:]}; the model must keep the spatial size"
                )
            if tile.shape[0] != channels:
                raise ModelOutputError(
                    f"the prediction of a tile of {name} has {tile.shape[0]} channels, that of its first tile had "
                    f"{channels}"
                )
        dtype = asked_dtype or np.dtype(first.dtype).name
        if self.is_resumed and self.plan is not None and self.plan.dtype != dtype:
            raise ResumeError(
                f"the output {self.output_run.output} was begun with {self.plan.dtype} and its prediction is {dtype} "
                "now; predict as then, or use if_exists='overwrite'"
            )
        return dtype, channels

    def valid(self, tile: AnyArray, number: int, information: Any, *, is_converted: bool) -> AnyArray:
        """Return the valid region of a tile, in the data type of the output."""
        plan = self.output_run.plan
        region, dtype = crop(tile, plan, number, information.overlap_crop_coords), np.dtype(plan.dtype)
        value_range = self.output_run.options.value_range
        if region.dtype == dtype and value_range is None:
            return region
        where = f"tile {number} ({describe_region(plan.axes, plan.valid_region(number))}) of {self.image.name}"
        region, lost_count = converted(region, dtype, is_asked_for=is_converted, what=where, value_range=value_range)
        self.output_run.tally.lost_count += lost_count
        return region

    def open_tiles(self) -> AnyArray:
        """Return for each predicted tile whether a unit that is not written needs it."""
        plan = self.output_run.plan
        is_open = np.zeros(plan.tile_count, bool)
        for unit in self.run.coordinator.missing_units():
            if unit < plan.finest_unit_count:
                is_open[list(plan.tiles_of_unit(unit))] = True
        return is_open

    def describe_incomplete(self) -> str:
        """Return in words what is missing of the image."""
        name = self.image.source.name
        if self.plan is None:
            return f"image {name} is missing: none of its tiles was predicted"
        plan = self.plan
        missing = self.run.coordinator.missing_tiles()
        elements = sum(plan.tile_nbytes(tile) for tile in missing) // plan.itemsize
        regions = map(plan.valid_region, missing[:_MISSING_SHOWN])
        shown = ", ".join(f"({describe_region(plan.axes, region)})" for region in regions)
        more = f" and {len(missing) - _MISSING_SHOWN} more" if len(missing) > _MISSING_SHOWN else ""
        return (
            f"image {name} misses {elements} elements of {len(missing)} tiles of {plan.tile_count} in "
            f"{self.output_run.output}: {shown}{more}"
        )


class ImageRuns(dict[Key, ImageRun]):
    """Images that are not complete; the reports of those that are, and in words those with units that were given up."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__()
        self._reports = reports
        self.given_up: list[str] = []

    def begun(self) -> list[ImageRun]:
        """Return the images of which the output is begun."""
        return [image_run for image_run in self.values() if image_run.plan is not None]

    def wait_for_room(self, current: ImageRun, nbytes: int) -> None:
        """Wait for images that came before this one, so that all together hold no more than one may."""
        budget = current.run.coordinator.budget_nbytes
        for earlier in self.begun():
            while (
                earlier is not current
                and not earlier.run.coordinator.is_idle
                and sum(image_run.live_nbytes for image_run in self.values()) + nbytes > budget
            ):
                earlier.run.advance(wait=True)

    def close_complete(self) -> None:
        """Report and close the images that are complete."""
        for key, image_run in list(self.items()):
            if image_run.plan is None:
                continue
            image_run.run.advance()
            if image_run.run.coordinator.is_finished:
                ended_by: UnitGivenUpError | None = None
                try:
                    self._reports.append(image_run.output_run.report())
                except UnitGivenUpError as error:
                    self.given_up.append(str(error))
                    ended_by = error
                image_run.end(ended_by)
                del self[key]

    def end(self, error: BaseException | None, errors: Mapping[Key, BaseException]) -> None:
        """Let go of the images that are not complete: each has ended by an error of its own, or by that of the run."""
        ended_by = error or RunStoppedError("the prediction was ended before all tiles were predicted")
        for key, image_run in self.items():
            image_run.end(errors.get(key, ended_by))
