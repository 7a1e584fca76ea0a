"""Every kind of model predicts on every executor, or is refused by an error that says what to pass."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client
from tests.doors.conftest import IMAGE, REQUEST, Predict, negated

import tilewright as tw
from tilewright.errors import ModelOutputError


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 1)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return -tiles


class Locked(Network):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Returning(Network):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, tiles: torch.Tensor) -> Any:
        return {"dict": {"tiles": tiles}, "tuple": (tiles, tiles), "None": None}[self.kind]


def script() -> Any:
    return torch.jit.script(Network())


class HoldingAFile:
    """A function that writes to a file that it holds open."""

    def __init__(self) -> None:
        self.file = Path("log.txt").open("w")  # noqa: SIM115

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.file.write("called\n")
        return -tiles

    def __del__(self) -> None:
        self.file.close()


RIGHT: dict[str, Callable[[], Any]] = {
    "a function": lambda: negated,
    "a function that returns bfloat16": lambda: lambda tiles: torch.as_tensor(-tiles).bfloat16(),
    "a function that returns a tensor with a gradient": lambda: lambda tiles: -torch.as_tensor(tiles).requires_grad_(),
    "a function that returns a list's array": lambda: lambda tiles: np.array((-tiles).tolist(), "float32"),
    "a network": Network,
    "a class, as a factory": lambda: Network,
    "a factory of a network that cannot be sent": lambda: Locked,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_model_predicts(kind: str, predict: Predict) -> None:
    np.testing.assert_array_equal(predict(RIGHT[kind]()).array[...], -IMAGE)


NOT_SENT: dict[str, Callable[[], Any]] = {
    "a script": script,
    "a network that is exported": lambda: torch.export.export(Network(), (torch.zeros(1, 1, 24, 24),)),
    "a network with a lock": Locked,
    "a function with an open file": HoldingAFile,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.parametrize("kind", NOT_SENT)
def test_a_model_that_cannot_be_sent_predicts_here_only(kind: str, executor: str, predict: Predict) -> None:
    model = NOT_SENT[kind]()
    if executor == "embedded":
        np.testing.assert_array_equal(predict(model).array[...], -IMAGE)
        return
    with pytest.raises(TypeError, match=r"cannot be sent to the processes .* function without arguments that makes"):
        predict(model)


WRONG: dict[str, tuple[Any, str]] = {
    "a dict": (lambda tiles: {"tiles": tiles}, "must return one array .* got dict"),
    "a tuple": (lambda tiles: (tiles, tiles), "must return one array .* got tuple"),
    "None": (lambda tiles: None, "must return one array .* got NoneType"),
    "a number": (lambda tiles: 1.0, "must return one array .* got float"),
    "a dict of a network": (Returning("dict"), "must return one tensor .* got dict"),
    "a tuple of a network": (Returning("tuple"), "must return one tensor .* got tuple"),
    "None of a network": (Returning("None"), "must return one tensor .* got NoneType"),
    "a masked array": (lambda tiles: np.ma.masked_greater(tiles, 100), "masked array, and its mask would be dropped"),
    "text": (lambda tiles: tiles.astype(str), "only numbers are stored"),
    "wide floats": (lambda tiles: tiles.astype(np.longdouble), "only numbers are stored"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_model_that_returns_something_else_is_told_what_to_return(kind: str, predict: Predict) -> None:
    model, message = WRONG[kind]
    with pytest.raises(ModelOutputError, match=message):
        predict(model)


class Ring:
    """A model that writes its predictions to several pieces of memory in turn."""

    def __init__(self, count: int) -> None:
        self.pieces = [np.empty((1, 1, 24, 24), "float32") for _ in range(count)]
        self.number = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.number += 1
        return np.negative(tiles, out=self.pieces[self.number % len(self.pieces)])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_memory_that_a_model_uses_again_is_right_or_refused(count: int, embedded: Client, folder: Path) -> None:
    request = REQUEST | {"layout": "compact", "chunks": (40, 56)}
    try:
        report = tw.predict_to_zarr(Ring(count), IMAGE, "out.zarr", client=embedded, **request)
    except ModelOutputError as error:
        assert "written to the memory of an earlier prediction" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(report.array[...], -IMAGE)


def test_three_threads_predict_at_once_each_on_a_cluster_of_its_own(folder: Path) -> None:
    outcomes: dict[int, Any] = {}

    def predict(number: int) -> None:
        try:
            outcomes[number] = tw.predict_to_zarr(negated, IMAGE, f"{number}.zarr", **REQUEST).array[...]
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        np.testing.assert_array_equal(outcomes[number], -IMAGE)


def test_a_data_loader_without_a_collate_function_yields_batches() -> None:
    from torch.utils.data import DataLoader

    dataset = tw.IterableTiledPredDataset(IMAGE, "YX", (24, 24), (8, 8))
    for (tiles, infos), (expected, expected_infos) in zip(
        DataLoader(dataset, 3), DataLoader(dataset, 3, collate_fn=tw.collate_tiles), strict=True
    ):
        np.testing.assert_array_equal(tiles, expected)
        assert infos == expected_infos


def test_a_client_that_is_asynchronous_or_closed_is_refused(embedded: Client, folder: Path) -> None:
    async def predict() -> None:
        async with Client(embedded.scheduler.address, asynchronous=True, set_as_default=False) as client:
            tw.predict_to_zarr(negated, IMAGE, "out.zarr", client=client, **REQUEST)

    with pytest.raises(TypeError, match=r"is asynchronous.*asyncio\.to_thread"):
        embedded.sync(predict)
    client = Client(embedded.cluster, set_as_default=False)
    client.close()
    with pytest.raises(ConnectionError, match="the connection to its scheduler is closed"):
        tw.predict_to_zarr(negated, IMAGE, "out.zarr", client=client, **REQUEST)
    assert not list(folder.iterdir())
