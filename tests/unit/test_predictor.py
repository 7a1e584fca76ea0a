"""Whatever kind of model comes in, it is called with whole tiles in inference mode, and must keep their shape."""

import pickle
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tilewright.errors import ModelOutputError
from tilewright.model.predictor import Predictor

BATCH = np.arange(2 * 1 * 4 * 5, dtype="float32").reshape(2, 1, 4, 5)


class Negate(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return -batch


class Doubling(pl.LightningModule):
    """Its forward must not be used: what a trainer predicts is what predict_step returns."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        raise AssertionError("forward was called")

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        assert batch_idx == 0
        return 2 * batch


class Spy(torch.nn.Module):
    """Note in what state the model is called."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.seen: dict[str, Any] = {}

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen = {
            "training": self.training or self.dropout.training,
            "inference": torch.is_inference_mode_enabled(),
            "dtype": batch.dtype,
        }
        return self.dropout(batch)


class Returning(torch.nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, batch: torch.Tensor) -> Any:
        return self.output(batch)


def make_negate() -> Negate:
    return Negate()


def make_with_option(sign: float = -1.0) -> Any:
    return lambda batch: sign * batch


class Callable3:
    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return -batch


KINDS = {
    "a function on arrays": np.negative,
    "a lambda": lambda batch: -batch,
    "an object with __call__": Callable3(),
    "a torch module": Negate(),
    "a factory of a torch module": make_negate,
    "a class of torch modules": Negate,
    "a class of callable objects": Callable3,
    "a factory with optional parameters": make_with_option,
    "a function with optional parameters": lambda batch, scale=-1.0: scale * batch,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_predicts(kind: str) -> None:
    np.testing.assert_array_equal(Predictor(KINDS[kind], "cpu").predict(BATCH), -BATCH)


@pytest.mark.parametrize("model", [Doubling(), Doubling], ids=["module", "factory"])
def test_a_lightning_module_predicts_by_its_predict_step(model: Any) -> None:
    np.testing.assert_array_equal(Predictor(model, "cpu").predict(BATCH), 2 * BATCH)


def test_a_factory_is_called_once() -> None:
    made = []

    def factory() -> Any:
        made.append(1)
        return np.negative

    predictor = Predictor(factory)
    for _ in range(3):
        predictor.predict(BATCH)
    assert len(made) == 1


def test_a_factory_is_not_called_before_the_first_tile() -> None:
    made = []
    Predictor(lambda: made.append(1))
    assert made == []


def test_a_factory_that_makes_no_model_is_named() -> None:
    with pytest.raises(TypeError, match=r"model factory .* returned None, which is no model"):
        Predictor(lambda: None).predict(BATCH)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the model must be a LightningModule.* got str"):
        Predictor("model.ckpt")


def test_a_torch_module_is_called_in_eval_and_inference_mode() -> None:
    spy = Spy().train()
    np.testing.assert_array_equal(Predictor(spy, "cpu").predict(BATCH), BATCH)
    assert spy.seen == {"training": False, "inference": True, "dtype": torch.float32}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", ">u2", "float64", "bool", "uint32", "float16"])
def test_a_torch_module_gets_floats_of_any_source(dtype: str) -> None:
    batch = (BATCH % 2).astype(dtype)
    np.testing.assert_array_equal(Predictor(Negate(), "cpu").predict(batch), -(BATCH % 2))


def test_a_torch_module_gets_the_data_type_of_its_weights() -> None:
    double = torch.nn.Conv2d(1, 3, 1).double()
    prediction = Predictor(double, "cpu").predict(BATCH)
    assert prediction.dtype == "float64"
    assert prediction.shape == (2, 3, 4, 5)


def test_bfloat16_becomes_float32() -> None:
    prediction = Predictor(Returning(lambda batch: batch.bfloat16()), "cpu").predict(BATCH)
    assert prediction.dtype == "float32"
    np.testing.assert_array_equal(prediction, BATCH)


def test_a_module_in_bfloat16_predicts() -> None:
    prediction = Predictor(torch.nn.Conv2d(1, 1, 1).bfloat16(), "cpu").predict(BATCH)
    assert prediction.dtype == "float32"


def test_a_prediction_with_a_gradient_is_taken() -> None:
    weights = torch.ones(1, requires_grad=True)
    prediction = Predictor(Returning(lambda batch: batch * weights), "cpu").predict(BATCH)
    np.testing.assert_array_equal(prediction, BATCH)


def test_a_callable_on_arrays_may_return_a_tensor() -> None:
    np.testing.assert_array_equal(Predictor(torch.from_numpy).predict(BATCH), BATCH)


@pytest.mark.parametrize("model", [lambda batch: batch[:, :, 1:, :], Returning(lambda batch: batch[:, :, 1:, :])])
def test_another_spatial_size_names_both(model: Any) -> None:
    with pytest.raises(ModelOutputError, match=r"spatial size \(4, 5\) and returned \(3, 5\)"):
        Predictor(model, "cpu").predict(BATCH)


@pytest.mark.parametrize("model", [lambda batch: batch[:1], lambda batch: batch[:, 0], lambda batch: batch[0]])
def test_another_number_of_tiles_or_axes_names_both_shapes(model: Any) -> None:
    returned = str(model(BATCH).shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ModelOutputError, match=rf"tiles of shape \(2, 1, 4, 5\) and returned {returned}"):
        Predictor(model).predict(BATCH)


def test_a_tuple_of_tensors_is_refused() -> None:
    with pytest.raises(ModelOutputError, match=r"must return one tensor .* got tuple"):
        Predictor(Returning(lambda batch: (batch, batch)), "cpu").predict(BATCH)


def test_a_tuple_of_different_arrays_is_refused() -> None:
    with pytest.raises(ModelOutputError, match="tuple"):
        Predictor(lambda batch: (batch, batch[:, :, 1:])).predict(BATCH)


def test_a_model_that_returns_nothing_is_refused() -> None:
    with pytest.raises(ModelOutputError):
        Predictor(lambda batch: None).predict(BATCH)


def test_what_goes_wrong_in_the_model_comes_out_as_it_is() -> None:
    def broken(batch: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("in the third layer")

    with pytest.raises(ZeroDivisionError, match="in the third layer"):
        Predictor(broken).predict(BATCH)


def test_a_predictor_travels_without_what_it_has_loaded() -> None:
    predictor = Predictor(make_negate, "cpu")
    predictor.predict(BATCH)
    travelled = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(travelled.predict(BATCH), -BATCH)
