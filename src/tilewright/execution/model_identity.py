"""Two models are the same if their weights are; of what has no weights only the name is known."""

from contextlib import suppress
from functools import partial
from io import BytesIO
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
    if isinstance(model, partial):
        arguments = [*map(_text_of, model.args)]
        arguments += [f"{name}={_text_of(value)}" for name, value in model.keywords.items()]
        return f"{model_identity(model.func)}({', '.join(arguments)})"
    named = model if hasattr(model, "__qualname__") else type(model)
    state_dict = getattr(model, "state_dict", None)
    if callable(state_dict) and named is not model:
        # The module of a class may have several names, the same weights have one digest.
        return f"{named.__qualname__} {_digest_of_weights(state_dict())}"
    name = f"{getattr(named, '__module__', None)}.{named.__qualname__}"
    if named is not model and isinstance(getattr(model, "__name__", None), str):
        # A ufunc of NumPy, say.
        name += f" {model.__name__}"
    return name


def _text_of(argument: Any) -> str:
    """Return an argument as text, in which no address of memory is."""
    return repr(argument) if isinstance(argument, str | bytes | int | float | tuple) else model_identity(argument)


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
