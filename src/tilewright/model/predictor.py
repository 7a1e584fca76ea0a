"""Model of a user: loaded once in each process, at its first tile, and given one batch at a time.

One at a time, because one forward uses all the threads, or the whole GPU, that there are; other threads of the process
read, encode and store meanwhile.
"""

import inspect
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from tilewright.assemble import AnyArray
from tilewright.conversion import as_array, is_array, is_number
from tilewright.errors import ModelOutputError, mark_as_raised_by_model
from tilewright.identity.models import ModelFacts


class Predictor:
    """A model that takes and returns arrays.

    Parameters
    ----------
    model : lightning module, torch module, callable, or factory of one of these
        A Lightning module is called by its ``predict_step``, a torch module by itself, both with a tensor in
        inference mode, on the device; any other callable with an array. A callable without required parameters is a
        factory: it is called once in each process.
    device : str
        A torch device, or ``"auto"``: a GPU where there is one.
    """

    def __init__(self, model: Any, device: str = "auto") -> None:
        if not callable(model) and not hasattr(model, "predict_step"):
            raise TypeError(
                "the model must be a LightningModule, a torch module, a callable on arrays, or a function that makes "
                f"one of these, got {type(model).__name__}"
            )
        if not isinstance(device, str):
            raise TypeError(f"device must be a name such as 'auto', 'cpu' or 'cuda:0', got {device!r:.80}")
        self.model = model
        self.device = device
        self._lock = threading.Lock()
        self._loaded: Callable[[AnyArray], AnyArray] | None = None
        self._give_back: Callable[[], None] | None = None
        # Known when it has predicted.
        self.facts = ModelFacts()

    def __reduce__(self) -> tuple[type["Predictor"], tuple[Any, str]]:
        return Predictor, (self.model, self.device)

    def predict(self, batch: AnyArray) -> AnyArray:
        """Return the prediction of a batch of whole tiles, (B, C, (Z), Y, X): as many tiles, of any number of channels.

        Another number of tiles or axes, or another spatial size, is a ModelOutputError.
        """
        with self._lock:
            try:
                if self._loaded is None:
                    self._loaded = self._load()
                prediction = self._loaded(batch)
            except Exception as error:
                mark_as_raised_by_model(error)
                raise
        if not is_number(prediction.dtype):
            raise ModelOutputError(
                f"the model returned elements of type {prediction.dtype} for tiles of shape {batch.shape}; only "
                "numbers are stored: bools, whole numbers and floats of at most 64 bits"
            )
        if prediction.ndim != batch.ndim or prediction.shape[0] != batch.shape[0]:
            raise ModelOutputError(
                f"the model was given tiles of shape {batch.shape} and returned {prediction.shape}; it must return "
                f"as many tiles with the same axes, (batch, channel, {'Z, ' if batch.ndim == 5 else ''}Y, X)"
            )
        if prediction.shape[2:] != batch.shape[2:]:
            raise ModelOutputError(
                f"the model was given tiles of spatial size {batch.shape[2:]} and returned {prediction.shape[2:]}; it "
                "must keep the spatial size: pad inside the model, or choose tiles that it can divide"
            )
        return prediction

    def release(self) -> None:
        """Let go of the model, and leave a torch module in the mode and on the device in which it came.

        Not where it is still about a batch, of a run that did not wait for it.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._give_back is not None:
                self._give_back()
            self._loaded = self._give_back = None
        finally:
            self._lock.release()

    def _load(self) -> Callable[[AnyArray], AnyArray]:
        model = _made_by(self.model)
        self.facts = ModelFacts.of(model)
        if not _is_torch_module(model):
            return _array_predictor(model)
        self._give_back = _state_of(model)
        return _torch_predictor(model, self.device)


def _made_by(model: Any) -> Any:
    """Return the model itself, made by its factory if it is one, or by the program that was exported."""
    if type(model).__name__ == "ExportedProgram":
        return model.module()
    if not is_factory(model):
        return model
    made = model()
    if not callable(made) and not hasattr(made, "predict_step"):
        raise TypeError(f"the model factory {model!r} returned {made!r}, which is no model")
    return made


def _array_predictor(model: Callable[[AnyArray], Any]) -> Callable[[AnyArray], AnyArray]:
    def predict(batch: AnyArray) -> AnyArray:
        output = model(batch)
        if not is_array(output):
            raise ModelOutputError(
                f"the model must return one array (batch, channel, (Z), Y, X), got {type(output).__name__}"
            )
        return as_array(output)

    return predict


def is_factory(model: Any) -> bool:
    """Tell whether a model is to be called without arguments, to make the model itself."""
    if _is_torch_module(model):
        return False
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return False
    if isinstance(model, type):
        try:
            signature.bind()
        except TypeError:
            return False
        return True
    parameters = signature.parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = (p for p in parameters if p.kind in positional and p.default is p.empty)
    return not any(required) and all(p.kind is not inspect.Parameter.VAR_POSITIONAL for p in parameters)


def _is_torch_module(model: Any) -> bool:
    # A process with a torch module has imported torch; without one the import is not worth its time.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _torch_predictor(module: Any, device: str) -> Callable[[AnyArray], AnyArray]:
    import torch  # noqa: PLC0415

    target = _torch_device(device)
    # A program that was exported has one mode, that in which it was.
    with suppress(NotImplementedError):
        module.eval()
    module = module.to(target)
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    wanted = torch.float32 if parameter is None else parameter.dtype
    is_lightning = hasattr(module, "predict_step")

    def predict(batch: AnyArray) -> AnyArray:
        with torch.inference_mode():
            # Torch takes the byte order of the machine only.
            native = batch.astype(batch.dtype.newbyteorder("="), copy=False)
            tensor = torch.from_numpy(np.ascontiguousarray(native)).to(target, wanted)
            output = module.predict_step(tensor, 0) if is_lightning else module(tensor)
            if not isinstance(output, torch.Tensor):
                raise ModelOutputError(
                    f"the model must return one tensor (batch, channel, (Z), Y, X), got {type(output).__name__}"
                )
            return as_array(output)

    return predict


def _torch_device(device: str) -> Any:
    import torch  # noqa: PLC0415

    try:
        target = torch.device(_free_device() if device == "auto" else device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is none that torch knows: {error}") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but this process has no GPU; use device='auto' or 'cpu'")
    return target


def _state_of(module: Any) -> Callable[[], None]:
    """Return a function that puts a module back into the mode, and onto the device, that it has now."""
    was_training = [(part, part.training) for part in module.modules()]
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}

    def restore() -> None:
        for part, training in was_training:
            part.training = training
        if len(devices) == 1:
            module.to(devices.pop())

    return restore


def _free_device() -> str:
    """Spread the processes of a node over its GPUs, by the numbers that SLURM or Dask give them."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return f"cuda:{_number_on_node() % torch.cuda.device_count()}"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _number_on_node() -> int:
    if "SLURM_LOCALID" in os.environ:
        return int(os.environ["SLURM_LOCALID"])
    try:
        from distributed import get_worker  # noqa: PLC0415

        name = get_worker().name
    except (ImportError, ValueError):
        return 0
    return int(name) if str(name).isdigit() else 0
