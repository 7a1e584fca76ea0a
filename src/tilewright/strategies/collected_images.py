"""Predictions are collected until their image is whole; then it is written, once, under its own name."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from operator import gt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed.protocol.pickle import dumps

from tilewright.arguments import whole_number
from tilewright.assemble import AnyArray, slices_of
from tilewright.datasets.images import DatasetImage, SourceImage, image_of_sample, images_of
from tilewright.errors import DestinationExistsError, IncompleteImageError, ModelOutputError
from tilewright.geometry import Region, TileInformation, element_count
from tilewright.images.image_writer import WriteFunc
from tilewright.images.image_writes import ImageWrites, joined
from tilewright.images.stitching import ImageStitching
from tilewright.images.tiff import check_option_names, write_tiff
from tilewright.images.zarr import write_zarr
from tilewright.outputs.apart import Target, check_apart
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan.request import check_output_axes
from tilewright.sources.naming import check_extension, output_names
from tilewright.stores.places import place_of_path
from tilewright.strategies.trainer_strategy import Key, TrainerStrategy
from tilewright.strategies.write_strategy import check_options_of
from tilewright.transport.clients import check_client, given_or_current

if TYPE_CHECKING:
    from distributed import Client


class _Collected:
    """The tiles of one image that have come so far."""

    def __init__(self, image: DatasetImage, information: TileInformation, tile: AnyArray) -> None:
        self.image = image
        self.extents = information.array_shape[1:]
        self.channels = len(tile)
        self.dtype = tile.dtype
        self.infos: list[TileInformation] = []
        self.numbers: list[int] = []
        self._seen: set[tuple[int, Region]] = set()
        # The valid regions of a dataset that is none of ours may overlap, so that elements must be counted one by one.
        self._covered: dict[int, AnyArray] | None = None if isinstance(image, SourceImage) else {}
        # Of all samples, in one channel.
        self.element_count = self.missing_count = image.sample_count * prod(self.extents)

    def is_new(self, information: TileInformation) -> bool:
        """Tell whether a tile has not come before, and remember that it has."""
        place = (information.sample_id, information.stitch_coords)
        if place in self._seen:
            return False
        self._seen.add(place)
        if self._covered is None:
            self.missing_count -= element_count(information.stitch_coords)
        else:
            covered = self._covered.setdefault(information.sample_id, np.zeros(self.extents, bool))
            window = covered[slices_of(information.stitch_coords)]
            self.missing_count -= window.size - int(np.count_nonzero(window))
            window[...] = True
        return True

    def check(self, information: TileInformation, tile: AnyArray) -> None:
        """Raise ModelOutputError where a tile does not fit its image, or those before it."""
        # What a foreign dataset cuts is known from what is kept of it only.
        expected = getattr(self.image, "tile_size", None)
        kept = tuple(stop for _, stop in information.overlap_crop_coords)
        if tile.shape[1:] != (expected or tile.shape[1:]) or any(map(gt, kept, tile.shape[1:])):
            raise ModelOutputError(
                f"the tiles of {self.image.name} have the spatial size {expected or f'of at least {kept}'}, but their "
                f"prediction has {tile.shape[1:]}; the model must keep the spatial size"
            )
        found = (information.array_shape[1:], len(tile), tile.dtype)
        if found != (self.extents, self.channels, self.dtype):
            raise ModelOutputError(
                f"the predictions of {self.image.name} must be alike, but one of sample {information.sample_id} is of "
                f"an image of {found[0]} with {found[1]} channels of {found[2]}, the first was of {self.extents} with "
                f"{self.channels} channels of {self.dtype}"
            )

    def stitching(self, axes: str) -> ImageStitching:
        image = self.image
        infos = tuple(self.infos)
        source_axes = image.source.axes if axes == "source" and isinstance(image, SourceImage) else None
        return ImageStitching(
            image.name, image.first_sample, image.sample_count, infos, self.channels, self.dtype, source_axes
        )


class CollectedImages(TrainerStrategy):
    """What `CacheTiles` and `WriteImage` have in common: tiles come in, whole images go out.

    Parameters
    ----------
    write_func, write_extension, write_func_kwargs, client, memory_nbytes, axes
        As in `CacheTiles`.
    """

    def __init__(
        self,
        write_func: WriteFunc,
        write_extension: str,
        write_func_kwargs: dict[str, Any] | None = None,
        *,
        client: "Client | None" = None,
        memory_nbytes: int | None = None,
        axes: str = "STCZYX",
    ) -> None:
        check_options_of(write_func, write_func_kwargs or {}, "write_func_kwargs")
        if write_func is write_tiff:
            check_option_names(write_func_kwargs or {})
        check_extension(write_extension)
        if memory_nbytes is not None:
            whole_number("memory_nbytes", memory_nbytes)
        check_client(client)
        check_output_axes("axes", axes)
        self.axes = axes
        self.write_func = write_func
        self.write_extension = write_extension
        self.write_func_kwargs = dict(write_func_kwargs or {})
        self.client = client
        self.memory_nbytes = memory_nbytes
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._writes: ImageWrites | None = None
        self._is_on_cluster = False
        self._last_loader = 0
        self._paths: dict[Key, Path] = {}
        self._numbers: dict[Key, int] = {}
        self._collected: dict[Key, _Collected] = {}
        self._complete: set[Key] = set()

    @property
    def live_nbytes(self) -> int:
        """Bytes of the tiles that are held, of images that are not covered, or are being written."""
        return 0 if self._writes is None else self._writes.live_nbytes

    def finalize(self) -> None:
        """Wait until all images are written, and check that every image was predicted whole.

        Raises
        ------
        ImageWriteError
            If images could not be written. It names them and their files; all others are on disk.
        IncompleteImageError
            If elements of an image were never predicted. It names the images, and how many elements they miss.
        """
        writes = self._writes
        if writes is None:
            return
        try:
            failures = writes.finish()
            incomplete = [self._describe_incomplete(key) for key in self._paths if key not in self._complete]
        finally:
            self.abort()
        if failures:
            raise joined(failures, also=incomplete)
        if incomplete:
            raise IncompleteImageError("; ".join(incomplete))

    def abort(self) -> None:
        """Let go of images that are not whole; those that are whole are still written."""
        writes = self._writes
        self._forget()
        if writes is not None:
            writes.close()

    @abstractmethod
    def _tiles_of(
        self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int
    ) -> tuple[AnyArray, list[TileInformation]]:
        """Return what was predicted as tiles, (B, C, (Z), Y, X), and where they belong."""

    def _take_in(self, trainer: Any, prediction: Any, batch: Any, dataloader_idx: int) -> None:
        self._last_loader = dataloader_idx
        self._collect(dataloader_idx, *self._tiles_of(trainer, prediction, batch, dataloader_idx))

    def _images_of(self, dataset: Any) -> Sequence[DatasetImage]:
        return images_of(dataset)

    def _open(self, trainer: Any, images: Mapping[Key, DatasetImage], folder: Path) -> None:
        for image in images.values():
            if self.axes == "source" and not isinstance(image, SourceImage):
                raise TypeError(
                    f"axes='source' needs the axes of the source, which a dataset of tilewright knows; those of "
                    f"{image.name} are not known"
                )
        folder = folder.absolute()
        files = [image.path for image in images.values()]
        paths = [folder / name for name in output_names(files, self.write_extension)]
        sources = [getattr(image, "source", None) or image.path for image in images.values()]
        check_apart(
            [Target(str(path), place_of_path(path), path.exists()) for path in paths],
            [source for source in sources if source is not None],
        )
        for path in filter(Path.exists, paths):
            self._check_existing(path)
        self._paths = dict(zip(images, paths, strict=True))
        client = given_or_current(self.client)
        self._is_on_cluster = client is not None
        if self._is_on_cluster:
            self._check_that_it_travels()
        self._numbers = {key: number for number, key in enumerate(images)}
        names = [image.name for image in images.values()]
        self._writes = ImageWrites(
            client, names, paths, folder, self.write_func, self.write_func_kwargs, self.memory_nbytes
        )

    @property
    def _opened_writes(self) -> ImageWrites:
        if self._writes is None:
            raise RuntimeError("no run is open: call prepare(), or write_batch(), first")
        return self._writes

    def _check_existing(self, path: Path) -> None:
        """Raise DestinationExistsError where an output cannot replace what has its name: now, not at the end."""
        if self.write_func is write_zarr:
            Output.at(path).check(OutputOptions(if_exists="overwrite"))
        elif path.is_dir():
            raise DestinationExistsError(f"{path} exists and is a folder; choose another folder or extension")

    def _check_that_it_travels(self) -> None:
        """Raise TypeError where what writes cannot be sent to a worker: better now than when an image is covered."""
        try:
            dumps((self.write_func, self.write_func_kwargs))
        except Exception as error:
            raise TypeError(
                f"write_func {self.write_func!r} or its write_func_kwargs cannot be sent to the workers: {error}; what "
                "is open or locked, a file or a connection say, must be made by the function itself"
            ) from error

    def _collect(self, dataloader_idx: int, tiles: Iterable[AnyArray], infos: Sequence[TileInformation]) -> None:
        """Take in tiles of a data loader, C(Z)YX each, which may change afterwards; write images that are whole now."""
        new: list[tuple[_Collected, int, AnyArray, TileInformation]] = []
        touched: dict[Key, _Collected] = {}
        images = self._images[dataloader_idx]
        for tile, information in zip(tiles, infos, strict=True):
            key = (dataloader_idx, image_of_sample(images, information.sample_id))
            if key in self._complete:
                # A tile that came twice: the image has it.
                continue
            collected = self._collected.get(key) or _Collected(images[key[1]], information, tile)
            collected.check(information, tile)
            self._collected[key] = touched[key] = collected
            if collected.is_new(information):
                new.append((collected, self._numbers[key], *self._kept(tile, information)))
        writes = self._opened_writes
        numbers = writes.hand_over([image for _, image, _, _ in new], [tile for _, _, tile, _ in new])
        for (collected, _, _, information), number in zip(new, numbers, strict=True):
            collected.infos.append(information)
            collected.numbers.append(number)
        complete = {key: collected for key, collected in touched.items() if collected.missing_count <= 0}
        for key in complete:
            del self._collected[key]
            self._complete.add(key)
        writes.write({self._numbers[key]: collected.stitching(self.axes) for key, collected in complete.items()})

    def _entries(self) -> Iterator[tuple[Any, TileInformation]]:
        """Yield what was collected of images that are not whole: each tile or its future, and where it belongs."""
        for collected in self._collected.values():
            yield from zip(self._opened_writes.held(collected.numbers), collected.infos, strict=True)

    def _kept(self, tile: AnyArray, information: TileInformation) -> tuple[AnyArray, TileInformation]:
        """Return a copy, (1, C, (Z), Y, X): the halo stays here where the tile is sent to a cluster."""
        if self._is_on_cluster:
            crop = information.overlap_crop_coords
            tile = tile[(slice(None), *slices_of(crop))]
            information = information._replace(overlap_crop_coords=tuple((0, stop - start) for start, stop in crop))
        return np.array(tile[np.newaxis]), information

    def _describe_incomplete(self, key: Key) -> str:
        collected = self._collected.get(key)
        name = self._images[key[0]][key[1]].name
        if collected is None:
            return f"image {name} is missing: nothing of it was predicted"
        missed = f"{collected.missing_count} elements of {collected.element_count}"
        return f"image {name} misses {missed}; {self._paths[key]} is not written"
