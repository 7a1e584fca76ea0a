"""Two models are the same if their weights are equal; models without weights are compared by their code."""

from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from xxhash import xxh3_64

from tilewright.identity.values import digest_of, value_identity

LIBRARIES = ("torch", "pytorch_lightning", "lightning")
"""Packages whose classes models and trainers are of."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model.

    Parameters
    ----------
    identity : str
        What tells it from others, as `model_identity`.
    name : str
        Name of its class or function, without the module; that may have several names.
    libraries : tuple of str
        Packages of `LIBRARIES` whose classes it is of.
    """

    identity: str = ""
    name: str = ""
    libraries: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any, *others: Any) -> "ModelFacts":
        """Return the facts of a model; the libraries are those of others too, such as its trainer."""
        roots = {kind.__module__.partition(".")[0] for thing in (model, *others) for kind in type(thing).__mro__}
        own = getattr(model, "__qualname__", None) or getattr(model, "__name__", None)
        name = own if isinstance(own, str) else type(model).__qualname__
        return cls(model_identity(model), name, tuple(library for library in LIBRARIES if library in roots))


def model_identity(model: Any) -> str:
    """Return the identity of a torch module or another callable.

    For a torch module its class name and a digest of its weights and buffers. For other callables as `value_identity`.
    """
    return value_identity(model, _of_weights)


def _of_weights(model: Any) -> str | None:
    """Return the identity of a model with weights; None for other values."""
    state_dict = getattr(model, "state_dict", None)
    if not callable(state_dict) or isinstance(model, type):
        return None
    # Without the module of the class, which may have several names.
    identity = f"{type(model).__qualname__} {_digest_of_weights(state_dict())}"
    # A traced or exported model has its code as text, and no class of its own.
    code = getattr(model, "code", None)
    return f"{identity}, code {digest_of(code)}" if isinstance(code, str) else identity


def _digest_of_weights(weights: dict[str, Any]) -> str:
    digest = xxh3_64()
    for name, value in weights.items():
        digest.update(name.encode())
        # Weights of a lazy module have no shape so far.
        with suppress(RuntimeError):
            digest.update(f" {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
            digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Any) -> Any:
    import torch  # noqa: PLC0415

    if isinstance(value, torch.Tensor):
        # Quantised and sparse weights cannot be viewed as bytes.
        with suppress(RuntimeError, TypeError, NotImplementedError):
            return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
