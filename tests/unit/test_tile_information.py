"""Tile information is checked when it is made, cannot be changed, and survives every way that a batch travels."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

import tilewright as tw
from tilewright.errors import GeometryError

FIELDS: dict[str, Any] = {
    "array_shape": (2, 35, 64),
    "last_tile": True,
    "overlap_crop_coords": ((16, 32), (0, 64)),
    "stitch_coords": ((19, 35), (0, 64)),
    "sample_id": 3,
}


def information(**changes: Any) -> tw.TileInformation:
    return tw.TileInformation(**FIELDS | changes)


def test_it_keeps_what_it_is_given() -> None:
    made = information()
    assert {name: getattr(made, name) for name in FIELDS} == FIELDS


def test_fields_come_in_the_order_that_is_documented() -> None:
    assert tw.TileInformation(*FIELDS.values()) == information()


def test_a_tile_is_not_the_last_one_by_default() -> None:
    given = {name: value for name, value in FIELDS.items() if name != "last_tile"}
    assert tw.TileInformation(**given).last_tile is False


def test_images_with_three_spatial_axes_are_fine() -> None:
    made = information(
        array_shape=(1, 8, 35, 64),
        overlap_crop_coords=((0, 8), (16, 32), (0, 64)),
        stitch_coords=((0, 8), (19, 35), (0, 64)),
    )
    assert made.array_shape == (1, 8, 35, 64)


BAD_FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "a shape without channels": ("array_shape", {"array_shape": (35, 64)}),
    "a shape with samples": ("array_shape", {"array_shape": (1, 1, 8, 35, 64)}),
    "an empty shape": ("array_shape", {"array_shape": ()}),
    "no elements": ("array_shape", {"array_shape": (0, 35, 64)}),
    "a negative extent": ("array_shape", {"array_shape": (1, -35, 64)}),
    "a broken extent": ("array_shape", {"array_shape": (1, 35.5, 64)}),
    "no shape": ("array_shape", {"array_shape": None}),
    "too few crops": ("overlap_crop_coords", {"overlap_crop_coords": ((16, 32),)}),
    "no crops": ("overlap_crop_coords", {"overlap_crop_coords": ()}),
    "an empty crop": ("overlap_crop_coords", {"overlap_crop_coords": ((16, 16), (0, 64))}),
    "a crop backwards": ("overlap_crop_coords", {"overlap_crop_coords": ((32, 16), (0, 64))}),
    "a negative crop": ("overlap_crop_coords", {"overlap_crop_coords": ((-1, 15), (0, 64))}),
    "a crop of another extent": ("overlap_crop_coords", {"overlap_crop_coords": ((16, 31), (0, 64))}),
    "a crop of three numbers": ("overlap_crop_coords", {"overlap_crop_coords": ((16, 32, 1), (0, 64))}),
    "a crop of single numbers": ("overlap_crop_coords", {"overlap_crop_coords": (16, 0)}),
    "a broken crop": ("overlap_crop_coords", {"overlap_crop_coords": ((16.5, 32.5), (0, 64))}),
    "too many places": ("stitch_coords", {"stitch_coords": ((0, 1), (19, 35), (0, 64))}),
    "no places": ("stitch_coords", {"stitch_coords": ()}),
    "an empty place": ("stitch_coords", {"stitch_coords": ((19, 35), (5, 5))}),
    "a place outside": ("stitch_coords", {"stitch_coords": ((20, 36), (0, 64))}),
    "a negative place": ("stitch_coords", {"stitch_coords": ((-1, 15), (0, 64))}),
    "a place of one number": ("stitch_coords", {"stitch_coords": ((19,), (0, 64))}),
    "no place at all": ("stitch_coords", {"stitch_coords": None}),
    "a negative sample": ("sample_id", {"sample_id": -1}),
    "a broken sample": ("sample_id", {"sample_id": 1.5}),
    "no sample": ("sample_id", {"sample_id": None}),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_a_field_that_does_not_fit_is_an_error_that_names_it(name: str) -> None:
    field, changes = BAD_FIELDS[name]
    with pytest.raises(GeometryError, match=field):
        information(**changes)


def test_the_error_is_the_built_in_one_that_a_caller_expects() -> None:
    with pytest.raises(ValueError, match="array_shape must be C"):
        information(array_shape=(1,))


@pytest.mark.parametrize(
    "changes",
    [
        {"array_shape": (1, 35, 64)},
        {"last_tile": False},
        {"overlap_crop_coords": ((15, 31), (0, 64))},
        {"stitch_coords": ((18, 34), (0, 64))},
        {"sample_id": 4},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_two_are_equal_where_all_fields_are(changes: dict[str, Any]) -> None:
    assert information() == information()
    assert hash(information()) == hash(information())
    assert information(**changes) != information()


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_can_be_changed(field: str) -> None:
    made = information()
    with pytest.raises(AttributeError):
        setattr(made, field, FIELDS[field])
    with pytest.raises(AttributeError):
        made.another_field = 1


def test_lists_and_numbers_of_numpy_become_plain_tuples_and_numbers() -> None:
    made = information(
        array_shape=np.array([2, 35, 64]),
        last_tile=np.True_,
        overlap_crop_coords=[[16, 32], [0, 64]],
        stitch_coords=np.array([[19, 35], [0, 64]]),
        sample_id=np.int64(3),
    )
    assert made == information()
    assert repr(made) == repr(information())
    assert type(made.sample_id) is int
    assert type(made.last_tile) is bool


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_it(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(information(), protocol))
    assert again == information()
    assert type(again) is tw.TileInformation


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_are_equal(copied: Any) -> None:
    assert copied(information()) == information()
    assert type(copied(information())) is tw.TileInformation


def test_it_survives_the_transfer_of_a_batch_to_a_device() -> None:
    infos = [information(), information(sample_id=4)]
    tiles, moved = move_data_to_device((torch.zeros(2, 1, 32, 64), infos), torch.device("cpu"))
    assert tiles.shape == (2, 1, 32, 64)
    assert moved == infos
    assert [type(info) for info in moved] == [tw.TileInformation] * 2


def test_it_survives_data_loader_workers() -> None:
    loader = DataLoader([information(sample_id=i) for i in range(4)], batch_size=2, collate_fn=list, num_workers=2)
    assert list(loader) == [[information(sample_id=i), information(sample_id=i + 1)] for i in (0, 2)]
