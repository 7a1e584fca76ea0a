"""Two models are the same if their weights are equal; models without weights are compared by their code."""

from contextlib import suppress
from io import BytesIO
from typing import Any

from xxhash import xxh3_64

from tilewright.identity.values import digest_of, value_identity


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
