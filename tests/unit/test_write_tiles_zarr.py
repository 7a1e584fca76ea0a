"""What `WriteTilesZarr` alone has: options of arrays, clusters of its own, and a plan that its tiles must fit."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numcodecs
import numpy as np
import pytest
import torch
import zarr
from distributed import Client
from tests.conformance.strategy_cases import IMAGE, RNG, ZARR, give, hand_over, small_units, tiff, trainer_of, write
from tests.support import PositionModel, read_by_tensorstore, running_clusters, tree

import tilewright as tw
from tilewright.errors import (
    DestinationExistsError,
    GeometryError,
    IncompleteImageError,
    ModelOutputError,
    PredictionTypeError,
    TileMismatchError,
)
from tilewright.transport import clients as cluster


@pytest.fixture
def writer(embedded: Client) -> Iterator[tw.WriteTilesZarr]:
    made = tw.WriteTilesZarr(embedded, compressors=None)
    yield made
    made.abort()


@pytest.fixture
def make_writer(embedded: Client) -> Iterator[Callable[..., tw.WriteTilesZarr]]:
    made: list[tw.WriteTilesZarr] = []

    def make_writer(**options: Any) -> tw.WriteTilesZarr:
        made.append(tw.WriteTilesZarr(embedded, **options))
        return made[-1]

    yield make_writer
    for strategy in made:
        strategy.abort()


# --- Clusters and plans.


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_little_in_flight_still_completes_within_the_plan(
    executor: str, batch_size: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image = RNG.integers(0, 60_000, (14, 40, 44)).astype("uint16")
    dataset = ZARR.dataset(image, "ZYX", tile_size=(3, 16, 16), overlaps=(1, 4, 5))
    client = request.getfixturevalue(executor)
    writer = tw.WriteTilesZarr(client, chunks=(2, 8, 8), compressors=None, window_nbytes=1)
    with small_units():
        [report] = write(writer, dataset, tmp_path, batch_size=batch_size)
    assert report.plan.unit_count > 20
    assert report.plan.peak_live_nbytes < report.plan.output_nbytes
    assert report.peak_live_nbytes <= report.plan.peak_live_nbytes
    np.testing.assert_array_equal(report.array[...], image)


class Slow(numcodecs.abc.Codec):
    """A compressor that is slower than prediction, and counts what it has done."""

    codec_id = "slow"
    done: ClassVar[list[int]] = []

    def encode(self, buf: Any) -> bytes:
        threading.Event().wait(0.05)
        self.done.append(1)
        return bytes(buf)

    def decode(self, buf: Any, out: Any = None) -> bytes:
        return bytes(buf)


numcodecs.register_codec(Slow)


def test_images_together_hold_no_more_than_one_may(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    Slow.done.clear()
    waiting = []

    def model(tiles: np.ndarray) -> np.ndarray:
        waiting.append(len(waiting) - len(Slow.done))
        return tiles

    writer = make_writer(zarr_format=2, compressors=Slow(), window_nbytes=1)
    reports = write(writer, ZARR.dataset([IMAGE[:16, :16]] * 8), tmp_path, model=model, batch_size=1)
    assert len(Slow.done) == len(waiting) == 8
    assert max(waiting) * reports[0].plan.output_nbytes <= reports[0].plan.peak_live_nbytes


@pytest.mark.parametrize("ending", ["finalize", "incomplete", "abort", "error"])
def test_a_cluster_that_was_opened_is_closed_at_the_end(ending: str, tmp_path: Path) -> None:
    clusters, threads = running_clusters(), set(threading.enumerate())
    writer, dataset = tw.WriteTilesZarr(), ZARR.dataset()
    items = list(dataset)
    hand_over(writer, dataset, tmp_path, items=items if ending == "finalize" else items[:3])
    assert len(running_clusters() - clusters) == 1
    if ending == "finalize":
        np.testing.assert_array_equal(writer.finalize()[0].array[...], IMAGE)
    elif ending == "incomplete":
        with pytest.raises(IncompleteImageError):
            writer.finalize()
    elif ending == "abort":
        writer.abort()
    else:
        with pytest.raises(ModelOutputError):
            hand_over(writer, dataset, tmp_path, model=lambda tiles: tiles[:, :, 1:])
    assert running_clusters() <= clusters
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith("Dask-Offload"):
            # That one is shared by all clusters of a process, and stays.
            thread.join(timeout=10)
            assert not thread.is_alive(), thread.name
    writer.abort()


def test_only_one_cluster_is_opened_for_all_images(tmp_path: Path) -> None:
    clusters = running_clusters()
    writer, dataset = tw.WriteTilesZarr(), ZARR.dataset([IMAGE] * 4)
    hand_over(writer, dataset, tmp_path, items=list(dataset)[::2])
    assert len(running_clusters() - clusters) == 1
    hand_over(writer, dataset, tmp_path, items=list(dataset)[1::2])
    assert len(writer.finalize()) == 4


# --- Options.


def test_chunks_shards_and_data_type_are_those_that_are_asked_for(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    writer = make_writer(chunks=(6, 8), shards=(12, 16), dtype="uint16")
    [report] = write(writer, ZARR.dataset(), tmp_path)
    assert (report.array.chunks, report.array.shards, report.array.dtype) == ((6, 8), (12, 16), np.dtype("uint16"))
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_one_number_per_spatial_axis_is_one_sample_and_all_channels(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    image = RNG.integers(0, 9, (2, 40, 48)).astype("uint8")
    [report] = write(make_writer(chunks=(6, 8)), ZARR.dataset(image, "SYX"), tmp_path, model=PositionModel(3, "uint8"))
    assert report.array.chunks == (1, 3, 6, 8)


@pytest.mark.parametrize(
    ("zarr_format", "metadata", "options"),
    [
        (2, ".zgroup", {"compressors": numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE)}),
        (3, "zarr.json", {"shards": (18, 18)}),
    ],
)
def test_both_formats_are_written_and_read_by_tensorstore(
    zarr_format: int,
    metadata: str,
    options: dict[str, Any],
    make_writer: Callable[..., tw.WriteTilesZarr],
    tmp_path: Path,
) -> None:
    [report] = write(make_writer(zarr_format=zarr_format, chunks=(9, 9), **options), ZARR.dataset(), tmp_path)
    assert report.array.metadata.zarr_format == zarr_format
    place = tmp_path / "prediction.zarr"
    assert (place / "0" / metadata).is_file()
    np.testing.assert_array_equal(read_by_tensorstore(place / "0" / "0", zarr_format), IMAGE)
    np.testing.assert_array_equal(zarr.open_group(place, mode="r", zarr_format=zarr_format)["0/0"][...], IMAGE)


def test_compressors_are_those_that_are_asked_for(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    zeros = np.zeros((64, 64), "float32")
    [plain] = write(make_writer(compressors=None), ZARR.dataset(zeros), tmp_path / "plain")
    [packed] = write(make_writer(compressors=zarr.codecs.ZstdCodec()), ZARR.dataset(zeros), tmp_path / "packed")
    assert plain.array.compressors == ()
    assert packed.array.compressors == (zarr.codecs.ZstdCodec(),)
    assert packed.stored_nbytes < plain.stored_nbytes == zeros.nbytes


def test_the_fill_value_is_that_of_the_array(make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path) -> None:
    [report] = write(make_writer(fill_value=7), ZARR.dataset(), tmp_path)
    assert report.array.fill_value == 7


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a broken limit": ({"window_nbytes": "2GB"}, ValueError, "window_nbytes must be .*'2GB'"),
    "no bytes in flight": ({"window_nbytes": 0}, ValueError, "window_nbytes must be at least 1, got 0"),
    "an unknown data type": ({"dtype": "float33"}, GeometryError, "unknown data type 'float33'"),
    "an unknown format": ({"zarr_format": 4}, ValueError, "zarr_format must be 2 or 3, got 4"),
    "shards in Zarr 2": ({"zarr_format": 2, "shards": (8, 8)}, GeometryError, "Zarr format 2 has no shards"),
    "unknown if_exists": ({"if_exists": "append"}, ValueError, "if_exists must be one of .*'append'"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_mean_nothing_are_refused_at_once(name: str) -> None:
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        tw.WriteTilesZarr(**options)


def test_chunks_that_do_not_fit_the_image_are_refused_before_anything_is_created(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    with pytest.raises(GeometryError, match="chunks must have one number for each output axis"):
        write(make_writer(chunks=(8,)), ZARR.dataset(), tmp_path)
    assert tree(tmp_path) == {}


# --- Outputs that exist.


def test_an_output_that_exists_is_left_as_it_is(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    write(writer, ZARR.dataset(), tmp_path)
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match=r"prediction\.zarr/0 exists .*if_exists='overwrite'"):
        write(writer, ZARR.dataset(), tmp_path)
    assert tree(tmp_path) == before


def test_all_outputs_are_checked_before_the_first_one_is_created(
    writer: tw.WriteTilesZarr, make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    sources = [tiff(tmp_path / "raw" / "a.tif"), tiff(tmp_path / "raw" / "b.tif")]
    write(writer, ZARR.dataset(sources[1:]), tmp_path / "out")
    with pytest.raises(DestinationExistsError, match=r"b\.zarr exists"):
        write(make_writer(), ZARR.dataset(sources), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.zarr", "b.zarr.ledger"]


# --- The end.


def test_the_end_waits_until_all_is_written(embedded: Client, tmp_path: Path) -> None:
    with small_units():
        writer = tw.WriteTilesZarr(embedded, chunks=(4, 4), compressors=None)
        [report] = write(writer, ZARR.dataset(), tmp_path, batch_size=100)
    files = [path for path in (tmp_path / "prediction.zarr" / "0" / "0" / "c").rglob("*") if path.is_file()]
    assert len(files) == report.object_count == report.plan.object_count == 120
    assert report.unit_count == report.plan.unit_count > 1


def test_the_report_counts_what_was_written(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    [report] = write(writer, ZARR.dataset(), tmp_path)
    assert report.tile_count == report.plan.tile_count == len(list(ZARR.dataset()))
    assert report.output_nbytes == report.stored_nbytes == IMAGE.size * 4
    assert report.array.store_path.store.root / report.array.path == tmp_path / "prediction.zarr" / "0" / "0"
    assert "all complete" in str(report)


def test_missing_tiles_are_counted_tile_by_tile_where_units_share_them_and_some_are_shown(
    writer: tw.WriteTilesZarr, make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    items = list(dataset := ZARR.dataset())
    missing = [items.pop(14), items.pop(5)][::-1]
    regions = [info.stitch_coords for _, info in missing]
    elements = sum(np.prod([stop - start for start, stop in region]) for region in regions)
    shown = ", ".join(f"(Y {y}:{y_stop}, X {x}:{x_stop})" for (y, y_stop), (x, x_stop) in regions)
    message = f" misses {elements} elements of 2 tiles of 16 in {tmp_path / 'prediction.zarr' / '0'}: {shown}"
    with small_units():
        hand_over(shared := make_writer(chunks=(4, 4)), dataset, tmp_path, items)
    with pytest.raises(IncompleteImageError, match=f"{re.escape(message)}$"):
        shared.finalize()
    with pytest.raises(IncompleteImageError, match=r"of 15 tiles of 16 .*\(Y .*\), \(Y .*\), \(Y .*\) and 12 more$"):
        write(writer, dataset, tmp_path / "one", items[:1])


# --- What is wrong is said, and costs nothing but this run.


def test_a_data_type_later_that_the_array_does_not_hold_is_refused(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = ZARR.dataset()
    hand_over(writer, dataset, tmp_path, items=list(dataset)[:3])
    with pytest.raises(ModelOutputError, match=r"tile 3 .* is float64, but that of the first tile was float32.*dtype="):
        write(writer, dataset, tmp_path, items=list(dataset)[3:], model=lambda tiles: tiles.astype("float64"))


def test_a_narrower_data_type_later_is_held_exactly(writer: tw.WriteTilesZarr, tmp_path: Path) -> None:
    dataset = ZARR.dataset()
    hand_over(writer, dataset, tmp_path, items=list(dataset)[:3])
    [report] = write(writer, dataset, tmp_path, items=list(dataset)[3:], model=lambda tiles: tiles.astype("uint16"))
    assert (report.array.dtype, report.lost_count) == ("float32", 0)
    np.testing.assert_array_equal(report.array[...], IMAGE)


def test_what_a_chosen_data_type_cannot_hold_is_counted(embedded: Client, tmp_path: Path) -> None:
    dataset = ZARR.dataset()
    [report] = write(tw.WriteTilesZarr(embedded, dtype="uint8"), dataset, tmp_path, model=lambda tiles: tiles - 1000)
    assert report.array.dtype == "uint8"
    values = IMAGE.astype(int) - 1000
    assert report.lost_count == np.count_nonzero((values < 0) | (values > 255)) > 0
    assert f"{report.lost_count:,} predicted elements do not fit uint8" in str(report)


def test_a_range_of_values_is_mapped_for_a_trainer_too_and_labels_are_refused(embedded: Client, tmp_path: Path) -> None:
    dataset = ZARR.dataset()
    strategy = tw.WriteTilesZarr(embedded, dtype="uint8", value_range=(0, 510))
    [report] = write(strategy, dataset, tmp_path, model=lambda tiles: tiles.astype("float64"))
    np.testing.assert_array_equal(report.array[...], np.rint(np.clip(IMAGE, 0, 510) / 2))
    assert report.lost_count == np.count_nonzero(IMAGE > 510) > 0
    with pytest.raises(PredictionTypeError, match="value_range scales floats"):
        write(strategy, dataset, tmp_path / "labels", model=lambda tiles: tiles.astype("uint8"))
    assert not (tmp_path / "labels" / "prediction.zarr").exists()


FOREIGN: dict[str, dict[str, Any]] = {
    "another tile size": {"tile_size": (20, 16)},
    "another overlap": {"overlaps": (7, 4)},
    "borders": {"borders": (8, 8)},
    "another image": {"sources": IMAGE[:33]},
    "volumes": {
        "sources": np.zeros((4, 40, 48)),
        "axes": "ZYX",
        "tile_size": (4, 16, 16),
        "overlaps": (0, 5, 4),
    },
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tile_of_another_tiling_is_refused_with_both_places(
    name: str, writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    dataset = ZARR.dataset()
    known = {info.stitch_coords for _, info in dataset}
    foreign = next(info for _, info in ZARR.dataset(**FOREIGN[name]) if info.stitch_coords not in known)
    tile = torch.zeros(1, 1, 16, 16)
    with pytest.raises(TileMismatchError, match="predict with the tiles of this dataset") as caught:
        give(writer, dataset, tmp_path, (tile, [foreign]), None)
    assert str(foreign.stitch_coords) in str(caught.value)


@pytest.mark.parametrize("crop", [((1, 12), (0, 14)), ((8, 19), (0, 14))])
def test_a_tile_that_is_cropped_elsewhere_is_refused(
    crop: tuple[tuple[int, int], ...], writer: tw.WriteTilesZarr, tmp_path: Path
) -> None:
    # The place is that of a tile, but what would be written there is not: shifted by some elements, or not there.
    dataset = ZARR.dataset()
    tile, info = next(iter(dataset))
    assert info.stitch_coords == ((0, 13), (0, 14))
    crop = ((crop[0][0], crop[0][0] + 13), crop[1])
    foreign = tw.TileInformation(info.array_shape, False, crop, info.stitch_coords, 0)
    with pytest.raises(TileMismatchError):
        give(writer, dataset, tmp_path, (tile[None], [foreign]), None)


@pytest.mark.parametrize("executor", ["embedded", "two_processes"])
def test_an_output_that_cannot_be_written_is_an_error_that_names_the_file(
    executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    writer, dataset = tw.WriteTilesZarr(request.getfixturevalue(executor), chunks=(8, 8)), ZARR.dataset()
    items = list(dataset)
    hand_over(writer, dataset, tmp_path, items=items[:1], batch_size=1)
    # From now on there is a file where the folder of the chunks must be.
    (tmp_path / "prediction.zarr" / "0" / "0" / "c").touch()
    with pytest.raises(OSError, match="could not write") as caught:
        write(writer, dataset, tmp_path, items=items[1:])
    assert str(tmp_path / "prediction.zarr" / "0" / "0" / "c") in str(caught.value.filename)


def test_a_cluster_that_cannot_be_opened_is_an_error_and_no_half_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise OSError("no ports left")

    writer, dataset = tw.WriteTilesZarr(compressors=None), ZARR.dataset()
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "LocalCluster", refused)
        patch.setattr(cluster, "open_embedded_cluster", refused)
        with pytest.raises(OSError, match="no ports left"):
            hand_over(writer, dataset, tmp_path)
    assert tree(tmp_path) == {}
    np.testing.assert_array_equal(write(writer, dataset, tmp_path)[0].array[...], IMAGE)


def test_the_ledgers_of_all_images_lie_where_they_were_asked_for(
    make_writer: Callable[..., tw.WriteTilesZarr], tmp_path: Path
) -> None:
    dataset = ZARR.dataset([IMAGE, IMAGE + 1])
    for written in (True, False):
        writer = make_writer(ledger=tmp_path / "ledgers", if_exists="resume")
        writer.prepare(trainer_of(dataset), tmp_path / "out")
        assert all((report.unit_count > 0) == written for report in write(writer, dataset, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.ledger/*.ledger"))
    for image in ("0", "1"):
        ledger = tmp_path / "ledgers" / "prediction.zarr" / image
        assert tw.verify(tmp_path / "out" / "prediction.zarr" / image, ledger=ledger, progress=False).is_complete
