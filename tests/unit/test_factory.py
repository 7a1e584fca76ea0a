"""The kind of output, and whether predictions are tiles, decide which strategy writes them, and how."""

import inspect
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from distributed import Client
from tests.support import read_level

import tilewright as tw

RNG = np.random.default_rng(14)
STACK = RNG.integers(0, 60_000, (2, 40, 48)).astype("uint16")


def save(*, file_path: Path, img: np.ndarray, **options: Any) -> None:
    with file_path.open("wb") as file:
        np.save(file, img)
    file_path.with_suffix(".json").write_text(json.dumps(options))


def never(*, file_path: Path, img: np.ndarray, **options: Any) -> None:
    raise AssertionError("another function should have written this")


def write_samples(strategy: Any, tiled: bool, folder: Path, name: str = "a.b.tif") -> None:
    """Hand over a file of two samples, as tiles or whole, and end."""
    source = folder / "raw" / name
    source.parent.mkdir(exist_ok=True)
    tifffile.imwrite(source, STACK, photometric="minisblack")
    if tiled:
        dataset: Any = tw.IterableTiledPredDataset(source, "SYX", (16, 16), (4, 5))
        batch = tw.collate_tiles(list(dataset))
    else:
        dataset = tw.IterablePredDataset(source, "SYX")
        samples, numbers = zip(*dataset, strict=True)
        batch = (np.stack(samples), list(numbers))
    trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset, num_workers=0))
    strategy.write_batch(trainer, None, batch[0], None, batch, 0, 0, folder / "out")
    strategy.finalize()


def read_output(folder: Path, write_type: str) -> np.ndarray:
    [path] = [one for one in (folder / "out").iterdir() if one.suffix not in (".json", ".ledger")]
    assert path.name == {"tiff": "a.b.tiff", "zarr": "a.b.zarr", "custom": "a.b.npy"}[write_type]
    if write_type == "tiff":
        return tifffile.imread(path)
    return read_level(path, 0) if write_type == "zarr" else np.load(path)


@pytest.fixture(params=[None, "embedded", "two_processes"])
def client(request: pytest.FixtureRequest) -> Iterator[Client | None]:
    if request.param != "embedded":
        yield None if request.param is None else request.getfixturevalue(request.param)
        return
    # Current, so that WriteTilesZarr opens no cluster of its own where none is given.
    embedded = request.getfixturevalue("embedded")
    with embedded.as_current():
        yield embedded


COMBINATIONS = [
    ("tiff", True, tw.CacheTiles),
    ("tiff", False, tw.WriteImage),
    ("zarr", True, tw.WriteTilesZarr),
    ("zarr", False, tw.WriteImage),
    ("custom", True, tw.CacheTiles),
    ("custom", False, tw.WriteImage),
]
WRITER = {"custom": (save, ".npy")}


@pytest.mark.parametrize(("write_type", "tiled", "expected"), COMBINATIONS)
def test_the_kind_of_output_and_tiling_say_which_strategy_it_is(write_type: str, tiled: bool, expected: type) -> None:
    strategy = tw.create_write_strategy(write_type, tiled, *WRITER.get(write_type, ()))
    assert type(strategy) is expected
    assert isinstance(strategy, tw.WriteStrategy)
    assert strategy.client is None


@pytest.mark.parametrize(("write_type", "tiled", "expected"), COMBINATIONS)
def test_the_client_reaches_the_strategy(write_type: str, tiled: bool, expected: type, embedded: Client) -> None:
    assert tw.create_write_strategy(write_type, tiled, *WRITER.get(write_type, ()), client=embedded).client is embedded


def test_the_arguments_have_the_names_and_the_order_that_people_know() -> None:
    names = ["write_type", "tiled", "write_func", "write_extension", "write_func_kwargs"]
    assert list(inspect.signature(tw.create_write_strategy).parameters)[:5] == names
    method = tw.PredictionWriterCallback.from_write_func_params
    assert list(inspect.signature(method).parameters)[:6] == [*names, "dirpath"]


@pytest.mark.parametrize("tiled", [True, False])
def test_tiff_has_its_own_function_and_extension_whatever_is_given(tiled: bool) -> None:
    strategy = tw.create_write_strategy("tiff", tiled, never, ".png", {"compression": "zlib"})
    assert strategy.write_func is tw.write_tiff
    assert strategy.write_extension == ".tiff"
    assert strategy.write_func_kwargs == {"compression": "zlib"}


def test_whole_images_in_zarr_have_their_own_function_too() -> None:
    strategy = tw.create_write_strategy("zarr", False, never, ".png")
    assert (strategy.write_func, strategy.write_extension) == (tw.write_zarr, ".zarr")


@pytest.mark.parametrize("tiled", [True, False])
def test_a_custom_strategy_is_made_of_what_is_given(tiled: bool) -> None:
    strategy = tw.create_write_strategy(
        write_type="custom", tiled=tiled, write_func=save, write_extension=".npy", write_func_kwargs={"level": 3}
    )
    assert (strategy.write_func, strategy.write_extension) == (save, ".npy")
    assert strategy.write_func_kwargs == {"level": 3}
    assert tw.create_write_strategy("custom", tiled, save, ".npy").write_func_kwargs == {}


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    ("given", "missing"), [((), "write_func"), ((None, ".npy"), "write_func"), ((save,), "write_extension")]
)
def test_a_custom_strategy_without_function_or_extension_is_a_value_error(
    given: tuple[Any, ...], missing: str, tiled: bool
) -> None:
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        tw.create_write_strategy("custom", tiled, *given)


@pytest.mark.parametrize("write_type", ["png", "", "TIFF", None, ["tiff"]])
def test_an_unknown_kind_of_output_is_a_value_error_that_says_which_there_are(write_type: Any) -> None:
    with pytest.raises(ValueError, match=r"'tiff', 'zarr', 'custom'"):
        tw.create_write_strategy(write_type, True, save, ".npy")


def test_further_keywords_for_tiles_in_zarr_are_options_of_its_strategy() -> None:
    strategy = tw.create_write_strategy("zarr", True, write_func_kwargs={"chunks": (8, 8), "if_exists": "overwrite"})
    assert isinstance(strategy, tw.WriteTilesZarr)
    assert strategy.chunks == (8, 8)
    with pytest.raises(TypeError, match="compression"):
        tw.create_write_strategy("zarr", True, write_func_kwargs={"compression": "zlib"})


def test_the_keywords_that_are_given_stay_as_they_are(embedded: Client) -> None:
    for write_type, tiled, kwargs in (
        ("zarr", True, {"chunks": (8, 8)}),
        ("zarr", False, {"chunks": (8, 8)}),
        ("tiff", True, {"compression": "zlib"}),
    ):
        before = dict(kwargs)
        strategy = tw.create_write_strategy(write_type, tiled, write_func_kwargs=kwargs, client=embedded)
        if write_type != "zarr" or not tiled:
            strategy.write_func_kwargs["more"] = 1
        assert kwargs == before


@pytest.mark.parametrize("tiled", [True, False])
def test_an_option_that_the_function_does_not_take_is_refused_at_once(tiled: bool) -> None:
    with pytest.raises(TypeError, match="'nope'"):
        tw.create_write_strategy("tiff", tiled, write_func_kwargs={"nope": 1})
    with pytest.raises(TypeError, match=r"write_func_kwargs=.*'nope'"):
        tw.create_write_strategy("custom", tiled, lambda file_path, img: None, ".npy", {"nope": 1})


@pytest.mark.parametrize(("write_type", "tiled", "expected"), COMBINATIONS)
def test_each_combination_writes_the_file_that_was_predicted(
    write_type: str, tiled: bool, expected: type, client: Client | None, tmp_path: Path
) -> None:
    strategy = tw.create_write_strategy(write_type, tiled, *WRITER.get(write_type, ()), client=client)
    write_samples(strategy, tiled, tmp_path)
    written = read_output(tmp_path, write_type)
    # Tiles go to an array of the axes of their source, images are SC(Z)YX.
    shape = STACK.shape if expected is tw.WriteTilesZarr else (2, 1, 40, 48)
    np.testing.assert_array_equal(written, STACK.reshape(shape).astype("float32"), strict=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "tiff": {"compression": "zlib"},
    "zarr": {"chunks": (8, 8)},
    "zarr untiled": {"chunks": (1, 1, 8, 8)},
    "custom": {"level": 3},
}


@pytest.mark.parametrize(("write_type", "tiled", "expected"), COMBINATIONS)
def test_the_callback_is_made_of_the_same_parameters(
    write_type: str, tiled: bool, expected: type, embedded: Client, tmp_path: Path
) -> None:
    options = OPTIONS["zarr untiled" if (write_type, tiled) == ("zarr", False) else write_type]
    given = WRITER.get(write_type, (None, None))
    callback = tw.PredictionWriterCallback.from_write_func_params(
        write_type, tiled, *given, options, tmp_path / "folder", client=embedded
    )
    assert isinstance(callback, tw.PredictionWriterCallback)
    assert type(callback.write_strategy) is expected
    assert callback.dirpath == tmp_path / "folder"
    assert callback.writing_predictions is True
    write_samples(callback.write_strategy, tiled, tmp_path)
    read_output(tmp_path, write_type)
    if write_type == "tiff":
        with tifffile.TiffFile(tmp_path / "out" / "a.b.tiff") as file:
            assert file.pages[0].compression.name == "ADOBE_DEFLATE"
    elif write_type == "zarr":
        assert zarr.open_group(tmp_path / "out" / "a.b.zarr", mode="r")["0/0" if tiled else "0"].chunks[-2:] == (8, 8)
    else:
        assert json.loads((tmp_path / "out" / "a.b.json").read_text()) == {"level": 3}


def test_the_callback_takes_its_parameters_by_keyword_and_its_folder_as_text(tmp_path: Path) -> None:
    callback = tw.PredictionWriterCallback.from_write_func_params(
        write_type="custom",
        tiled=False,
        write_func=save,
        write_extension=".npy",
        write_func_kwargs={"level": 3},
        dirpath=str(tmp_path),
    )
    assert callback.dirpath == tmp_path
    assert isinstance(callback.write_strategy, tw.WriteImage)
    assert callback.write_strategy.write_func_kwargs == {"level": 3}


def test_the_callback_has_a_folder_of_its_own_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="relative prediction folder 'predictions' is taken from the working dir"):
        callback = tw.PredictionWriterCallback.from_write_func_params("tiff", True)
    assert callback.dirpath == tmp_path / "predictions"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tw.PredictionWriterCallback.from_write_func_params("tiff", True, dirpath="some/folder")
    # The line that is to be changed is the one of the caller.
    assert [Path(str(warning.filename)).name for warning in caught] == [Path(__file__).name]


def test_the_callback_refuses_what_the_strategies_refuse(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write_func is missing"):
        tw.PredictionWriterCallback.from_write_func_params("custom", True, dirpath=tmp_path)
    with pytest.raises(ValueError, match="write_type must be one of"):
        tw.PredictionWriterCallback.from_write_func_params("png", True, dirpath=tmp_path)
