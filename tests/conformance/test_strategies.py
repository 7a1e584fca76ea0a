"""One suite for all strategies: what comes, in any order, is written once and whole under its name, or is refused."""

import tempfile
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from tests.conformance.strategy_cases import (
    CASES,
    EXAMPLES,
    IMAGE,
    KINDS,
    STACK,
    WRITERS,
    ARun,
    Case,
    Kind,
    Make,
    Memory,
    as_workers_yield,
    collated,
    give,
    hand_over,
    runs,
    small_units,
    stored,
    tiff,
    trainer_of,
    write,
)
from tests.support import PositionModel, running_clusters, tree
from torch.utils.data import TensorDataset

import tilewright as tw
from tilewright.errors import DestinationError, GeometryError, IncompleteImageError, ModelOutputError, TileMismatchError

# --- What is written is what was predicted.


def test_batches_in_any_order_and_twice_give_a_plain_stitching(
    kind: Kind, client_name: str | None, make: Make, tmp_path: Path
) -> None:
    @settings(max_examples=EXAMPLES[client_name])
    @given(run=runs(kind))
    def check(run: ARun) -> None:
        strategy, memory = make(**run.options), Memory(run.memories)
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder, small_units():
            for loader, items in run.batches:
                options = {"model": run.model, "memory": memory, "loader": loader, "batch_size": len(items)}
                hand_over(strategy, run.datasets, folder, items, **options)
            reports = strategy.finalize()
            expected: list[np.ndarray] = []
            for dataset, images in zip(run.datasets, run.images, strict=True):
                order = run.options["axes"]
                expected.extend(kind.expected(dataset, image, run.model, n, order) for n, image in enumerate(images))
            kind.check(Path(folder), dict(enumerate(expected)))
        assert not getattr(strategy, "tile_cache", None)
        if kind.is_zarr:
            assert len(reports) == len(expected)
            peaks = [(report.peak_live_nbytes, report.plan.peak_live_nbytes) for report in reports]
            assert not run.is_in_order or all(held <= planned for held, planned in peaks)

    check()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_case_gives_a_plain_stitching(case: Case, kind: Kind, make: Make, tmp_path: Path) -> None:
    dataset = kind.dataset(list(case.images), case.axes, **case.options)
    items, memory = as_workers_yield(list(dataset)), Memory(case.memories)
    write(make(), dataset, tmp_path, items, model=case.model, batch_size=case.batch_size, memory=memory)
    kind.check(tmp_path, {n: kind.expected(dataset, image, case.model, n) for n, image in enumerate(case.images)})


@pytest.mark.parametrize("kind", [KINDS["CacheTiles"], KINDS["WriteImage"]], ids=["CacheTiles", "WriteImage"])
@pytest.mark.parametrize("writer", WRITERS)
def test_an_image_that_is_lazy_is_the_same_as_one_that_is_not(
    writer: str, kind: Kind, make: Make, tmp_path: Path
) -> None:
    image, model = np.stack([STACK, STACK[:, ::-1]], axis=2), PositionModel(2, "int32")
    dataset = kind.dataset([image, image[..., ::-1]], "SYCX")
    write(make(write_func=WRITERS[writer]), dataset, tmp_path, model=model)
    kind.check(tmp_path, {n: kind.expected(dataset, one, model) for n, one in enumerate([image, image[..., ::-1]])})


# --- What a prediction step may return. Tiles say where they belong, and samples are numbered by their batch.

Form = Callable[[torch.Tensor, Any], tuple[Any, Any]]
FORMS: dict[str, Form] = {
    "a tensor": lambda values, where: (values, (values, where)),
    "an array": lambda values, where: (values.numpy(), [values, where]),
    "half precision and a gradient": lambda values, where: (values.bfloat16().requires_grad_(), [values, where]),
}
FORMS_OF_TILES: dict[str, Form] = {
    "tiles and infos": lambda values, where: ((values, where), (values, where)),
    "a list, and no batch": lambda values, where: ([values, tuple(where)], None),
    "a batch of other infos": lambda values, where: ((values, where), (values, where[::-1])),
    "infos of another class": lambda values, where: (
        (values, [SimpleNamespace(**information._asdict()) for information in where]),
        None,
    ),
}
FORMS_OF_SAMPLES: dict[str, Form] = {
    "a list of numbers": lambda values, where: (values, (values, where.tolist())),
    "a tuple of numbers": lambda values, where: (values, (values, tuple(where.tolist()))),
    "an array of numbers": lambda values, where: (values, (values, where.numpy())),
    # Which look like numbers of samples, and are none.
    "labels from the model": lambda values, where: ([values, torch.sort(where)[0]], [values, where]),
}


def of_kinds(every: dict[str, Any], tiled: dict[str, Any], whole: dict[str, Any]) -> Any:
    """Each kind with each row of a table, and with those of its own."""
    rows = {
        f"{kind_name}-{name}": (kind, row)
        for kind_name, kind in KINDS.items()
        for name, row in (every | (tiled if kind.is_tiled else whole)).items()
    }
    return pytest.mark.parametrize(("kind", "row"), rows.values(), ids=rows)


@of_kinds(FORMS, FORMS_OF_TILES, FORMS_OF_SAMPLES)
def test_what_a_prediction_step_returns_goes_to_where_it_belongs(
    kind: Kind, row: Form, make: Make, tmp_path: Path
) -> None:
    images = [image // 256 for image in STACK]
    dataset, strategy = kind.dataset(images), make()
    items = list(dataset)[::-1]
    give(strategy, dataset, tmp_path, *row(*collated(items)))
    strategy.finalize()
    kind.check(tmp_path, {number: kind.expected(dataset, image) for number, image in enumerate(images)})


Row = tuple[Form, type[Exception], str]
REFUSED: dict[str, Row] = {
    "no channels": (lambda v, w: (v[:, 0], [v, w]), ModelOutputError, "shape"),
    "one axis more": (lambda v, w: (v[:, None], [v, w]), ModelOutputError, "spatial size|shape"),
    "a number": (lambda v, w: (torch.tensor(1.0), [v, w]), ModelOutputError, "shape"),
    "text": (lambda v, w: (v.numpy().astype("U8"), [v, w]), ModelOutputError, "numbers"),
    "objects": (lambda v, w: (v.numpy().astype(object), [v, w]), ModelOutputError, "numbers"),
    "complex numbers": (lambda v, w: (v.to(torch.complex64), [v, w]), ModelOutputError, "numbers"),
    "too many": (lambda v, w: (torch.cat([v, v]), [v, w]), ValueError, r"there are \d+ predict.*, but .*\d+"),
    "too few": (lambda v, w: (v[:1], [v, w]), ValueError, r"there are 1 predict.*, but .*\d+"),
}
REFUSED_TILES: dict[str, Row] = {
    "smaller": (lambda v, w: (v[:, :, 1:], [v, w]), ModelOutputError, r"size \(16, 16\), but their .* has \(15, 16\)"),
    "larger": (lambda v, w: (v.repeat(1, 1, 2, 2), [v, w]), ModelOutputError, r"\(16, 16\), but their .* \(32, 32\)"),
    "a dictionary": (lambda v, w: ({"tiles": v}, [v, w]), ModelOutputError, "must be one tensor"),
    "several tensors": (lambda v, w: ([v, v], [v, w]), TypeError, "must be one tensor"),
    "no infos": (lambda v, w: (v, v), TypeError, "neither the prediction nor the batch has tile information"),
    "an unknown sample": (
        lambda v, w: (v, [v, [info._replace(sample_id=info.sample_id + 1) for info in w]]),
        TileMismatchError,
        "there is no sample 2 in the dataset of 2 images",
    ),
}
REFUSED_SAMPLES: dict[str, Row] = {
    "an unknown sample": (lambda v, w: (v, [v, w + 1]), TileMismatchError, "there is no sample 2 in the dataset of 2"),
    "a negative sample": (lambda v, w: (v, [v, w - 1]), GeometryError, "sample_id must be at least 0, got -1"),
}


@of_kinds(REFUSED, REFUSED_TILES, REFUSED_SAMPLES)
def test_a_prediction_that_does_not_fit_is_refused_before_anything_is_made_or_replaced(
    kind: Kind, row: Row, make: Make, tmp_path: Path
) -> None:
    form, error, message = row
    dataset, strategy = kind.dataset([IMAGE, IMAGE[::-1]]), make()
    batch = collated(list(dataset))
    for is_there in (False, True):
        if is_there:
            write(strategy, dataset, tmp_path)
        before = tree(tmp_path)
        with pytest.raises(error, match=message):
            give(strategy, dataset, tmp_path, *form(*batch))
        strategy.finalize()
        assert tree(tmp_path) == before


def test_a_volume_of_which_one_axis_is_lost_is_refused(kind: Kind, make: Make, tmp_path: Path) -> None:
    dataset = kind.dataset(STACK, "ZYX", tile_size=(2, 16, 16), overlaps=(0, 4, 4))
    with pytest.raises(ModelOutputError, match=r"spatial size|with 5 axes, got the shape .*must make batches"):
        hand_over(make(), dataset, tmp_path, model=lambda volumes: volumes[:, :, 0])
    assert tree(tmp_path) == {}


LATER: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "other channels": (PositionModel(2, "float32"), r"a\.tif .*2 channels"),
    "another spatial size": (lambda values: values[..., 1:], r"a\.tif .*(spatial size|must be alike)"),
    "a data type that does not fit": (lambda values: values.astype("float64"), r"a\.tif.* float64"),
    "too few": (lambda values: values[:0], r"there are 0 predict"),
}


@pytest.mark.parametrize("name", LATER)
def test_after_an_error_in_the_midst_of_a_run_the_strategy_writes_a_new_one(
    name: str, kind: Kind, make: Make, tmp_path: Path
) -> None:
    model, message = LATER[name]
    images = {"a": STACK, "b": STACK // 3}
    dataset = kind.dataset([tiff(tmp_path / f"{name}.tif", image) for name, image in images.items()], "SYX")
    items, strategy, clusters = list(dataset), make(), running_clusters()
    hand_over(strategy, dataset, tmp_path / "out", items[:2])
    with pytest.raises((ModelOutputError, ValueError), match=message):
        hand_over(strategy, dataset, tmp_path / "out", items[2:], model=model)
    # Nothing of the broken run is left: not its cluster, and not what it had.
    assert getattr(strategy, "tile_cache", []) == []
    assert running_clusters() == clusters
    with pytest.raises(IncompleteImageError, match=r"a\.tif misses"):
        write(strategy, dataset, tmp_path / "out", items[2:])
    write(strategy, dataset, tmp_path / "whole")
    kind.check(tmp_path / "whole", {name: kind.expected(dataset, image) for name, image in images.items()})


# --- Names.


def test_outputs_have_the_names_of_their_sources_below_the_folder(
    kind: Kind, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    images = {
        "other/cells.2024": IMAGE,
        "here/deep/cells.2024": IMAGE[:, ::-1],
        "here/brain": IMAGE[::-1],
        "here/a.b": IMAGE // 2,
        "here/opened": IMAGE // 3,
        5: IMAGE[::-1, ::-1],
    }
    tiff(Path("../other/cells.2024.tif"), images["other/cells.2024"])
    tiff(Path("deep/cells.2024.tif"), images["here/deep/cells.2024"])
    stored(Path("opened.zarr"), images["here/opened"])
    sources = [
        "../other/cells.2024.tif",
        Path("deep/cells.2024.tif"),
        str(stored(Path("brain.zarr"), images["here/brain"])),
        stored(Path("a.b.zarr"), images["here/a.b"], "0"),
        zarr.open_array("opened.zarr", mode="r"),
        images[5],
    ]
    before = tree(tmp_path)
    dataset = kind.dataset(sources)
    write(make(), dataset, "out/deep")
    kind.check(
        tmp_path / "here" / "out" / "deep", {label: kind.expected(dataset, one) for label, one in images.items()}
    )
    assert all(name.startswith("here/out/deep/") for name in tree(tmp_path).keys() - before.keys())


Clash = tuple[Callable[[Path], list[Any]], str, str]
"""Sources, the folder of the outputs, and what is said."""
CLASHES: dict[str, Clash] = {
    "two names": (
        lambda raw: [tiff(raw / "x.tif"), tiff(raw / "x.tiff")],
        "out",
        r"x\.tif and .*x\.tiff would both be written to x\.",
    ),
    "one file twice": (lambda raw: [tiff(raw / "x.tif")] * 2, "out", "is given twice, as number 0 and 1"),
}
CLASHES_OF_ZARR: dict[str, Clash] = {
    "an array and a file": (lambda raw: [tiff(raw / "prediction.tif"), IMAGE], "out", r"would share prediction\.zarr"),
    "the source": (lambda raw: [stored(raw / "x.zarr"), IMAGE], "raw", r"x\.zarr is the source"),
    "the source of another": (
        lambda raw: [tiff(raw / "a.tif"), stored(raw / "q" / "a.zarr")],
        "raw/q",
        r"is the source .*a\.zarr",
    ),
    # The output would replace raw/x.zarr, in which the source lies.
    "a store around": (lambda raw: [stored(raw / "x.zarr" / "0")], "raw", r"x\.zarr"),
    "inside a store": (lambda raw: [stored(raw / "x.zarr")], "raw/x.zarr", r"x\.zarr"),
}
CLASHES_OF_TIFF: dict[str, Clash] = {
    "an array and a file": (lambda raw: [IMAGE, tiff(raw / "prediction_0.tif")], "out", r"both .* prediction_0\.tif"),
    "the source": (lambda raw: [tiff(raw / "x.tif"), IMAGE], "raw", r"x\.tif is the source"),
    "inside a store": (lambda raw: [stored(raw / "x.zarr")], "raw/x.zarr", r"x\.tif"),
}
ROWS_OF_CLASHES = {
    f"{extension}-{name}": (extension, *row)
    for extension, rows in ((".zarr", CLASHES_OF_ZARR), (".tif", CLASHES_OF_TIFF))
    for name, row in (CLASHES | rows).items()
}


@pytest.mark.parametrize("name", ROWS_OF_CLASHES)
def test_names_that_clash_are_an_error_before_anything_is_made(name: str, kind: Kind, tmp_path: Path) -> None:
    extension, sources, folder, message = ROWS_OF_CLASHES[name]
    if kind.is_zarr and extension != ".zarr":
        pytest.skip("its outputs are arrays of Zarr")
    given, strategy = sources(tmp_path / "raw"), kind.make(extension=extension)
    before = tree(tmp_path)
    # In one data loader, and in one for each.
    for datasets in ([kind.dataset(given)], [kind.dataset(source) for source in given]):
        with pytest.raises(DestinationError, match=message):
            strategy.prepare(trainer_of(*datasets), tmp_path / folder)
        # A trainer that does not ask before finds out with its first batch.
        with pytest.raises(DestinationError, match=message):
            hand_over(strategy, datasets, tmp_path / folder)
        assert tree(tmp_path) == before


# --- Data loaders and datasets.


@pytest.mark.parametrize("of", [list, tuple, lambda loaders: dict(enumerate(loaders))], ids=["list", "tuple", "dict"])
def test_several_data_loaders_are_told_apart_by_their_number(of: Any, kind: Kind, make: Make, tmp_path: Path) -> None:
    datasets = [kind.dataset(tiff(tmp_path / "a.tif")), kind.dataset([IMAGE[::-1], IMAGE // 2, IMAGE[:, ::-1]])]
    trainer, strategy = trainer_of(*datasets), make()
    trainer.predict_dataloaders = of(trainer.predict_dataloaders)
    # In turns, as some trainers do.
    for items in zip_longest(*datasets):
        for loader, item in enumerate(items):
            if item is None:
                continue
            batch = collated([item])
            strategy.write_batch(trainer, None, batch[0], None, batch, 0, loader, tmp_path / "out")
    strategy.finalize()
    images = {"a": IMAGE, 1: IMAGE[::-1], 2: IMAGE // 2, 3: IMAGE[:, ::-1]}
    kind.check(tmp_path / "out", {label: kind.expected(datasets[0], image) for label, image in images.items()})


class Foreign:
    """A dataset of another library that says nothing of its images."""


tw.IterableTiledPredDataset.register(Foreign)
tw.IterablePredDataset.register(Foreign)


def test_any_other_dataset_is_a_type_error_of_these_words(kind: Kind, make: Make, tmp_path: Path) -> None:
    dataset, strategy = kind.dataset(), make()
    values, where = batch = collated(list(dataset))
    others = [other.dataset() for other in KINDS.values() if other.is_tiled != kind.is_tiled]
    refusals = [
        (datasets, f"^Prediction dataset is not `{kind.dataset_type}`\\.$")
        for other in (*others, TensorDataset(values), None)
        for datasets in ([other], [dataset, other])
    ]
    unknown = "tiles of a Foreign are not known beforehand", "Foreign has neither `images` nor `data_files`"
    refusals.append(([Foreign()], unknown[not kind.is_zarr]))
    for datasets, message in refusals:
        with pytest.raises(TypeError, match=message):
            strategy.prepare(trainer_of(*datasets), tmp_path)
        for prediction in (values, (values, where)):
            with pytest.raises(TypeError, match=message):
                give(strategy, datasets, tmp_path, prediction, batch)
    assert tree(tmp_path) == {}
