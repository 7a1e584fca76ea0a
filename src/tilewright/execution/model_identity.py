"""Two models are the same if their weights are; of what has no weights only the name is known."""

from typing import Any

from xxhash import xxh3_64


def model_identity(model: Any) -> str:
    """Return what tells a model from others.

    Parameters
    ----------
    model : torch module or callable
        The model, as it is called with tiles.

    Returns
    -------
    str
        The name of its class, or of the function, and for a torch module a digest of its weights and buffers.

    Examples
    --------
    >>> model_identity(len)
    'builtins.len'
    """
    named = model if hasattr(model, "__qualname__") else type(model)
    name = f"{named.__module__}.{named.__qualname__}"
    if named is not model and isinstance(getattr(model, "__name__", None), str):
        # A ufunc of NumPy, say.
        name += f" {model.__name__}"
    state_dict = getattr(model, "state_dict", None)
    return f"{name} {_digest_of_weights(state_dict())}" if callable(state_dict) else name


def _digest_of_weights(weights: dict[str, Any]) -> str:
    digest = xxh3_64()
    for name, value in weights.items():
        digest.update(f"{name} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Any) -> Any:
    import torch  # noqa: PLC0415

    if not isinstance(value, torch.Tensor):
        # What a module keeps beside its weights need not be the same text twice.
        return b""
    try:
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError, NotImplementedError):
        # Quantised or sparse weights have no plain bytes.
        return str(value).encode()
