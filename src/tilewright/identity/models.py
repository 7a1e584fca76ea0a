"""Two models are the same if their weights are; of what has no weights, the code is compared."""

from contextlib import suppress
from io import BytesIO
from typing import Any

from xxhash import xxh3_64

from tilewright.identity.values import digest_of, value_identity


def model_identity(model: Any) -> str:
    """Return what tells a model from others.

    Parameters
    ----------
    model : torch module or callable
        The model, as it is called with tiles.

    Returns
    -------
    str
        For a torch module the name of its class and a digest of its weights and buffers; for a function its name and a
        digest of its code and of what it has enclosed; for a partial function also a digest of its arguments.

    Examples
    --------
    >>> model_identity(len)
    'builtins.len'
    """
    return value_identity(model, _of_weights)


def _of_weights(model: Any) -> str | None:
    """Return the identity of what has weights; None for others."""
    state_dict = getattr(model, "state_dict", None)
    if not callable(state_dict) or isinstance(model, type):
        return None
    # The module of a class may have several names, the same weights have one digest.
    identity = f"{type(model).__qualname__} {_digest_of_weights(state_dict())}"
    # What was traced or exported has its steps as text, and no class of its own.
    code = getattr(model, "code", None)
    return f"{identity}, code {digest_of(code)}" if isinstance(code, str) else identity


def _digest_of_weights(weights: dict[str, Any]) -> str:
    digest = xxh3_64()
    for name, value in weights.items():
        digest.update(name.encode())
        # Weights of a lazy module have no shape yet.
        with suppress(RuntimeError):
            digest.update(f" {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
            digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Any) -> Any:
    import torch  # noqa: PLC0415

    if isinstance(value, torch.Tensor):
        # Quantised and sparse weights have no plain bytes.
        with suppress(RuntimeError, TypeError, NotImplementedError):
            return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
