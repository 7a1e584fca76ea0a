"""Model on the command line: each worker imports it from its file or module; no weights are sent."""

import importlib
import importlib.util
import re
import sys
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import isclass, signature
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tilewright.errors import TilewrightError

if TYPE_CHECKING:
    from tilewright.model.described import DescribedModel

TORCH_SCRIPT_SUFFIXES = (".pt", ".pth", ".ts")
CAREAMICS = "careamics"
"""What stands before the path of a checkpoint of CAREamics."""


class ModelReferenceError(TilewrightError, ImportError):
    """A model that cannot be found or loaded."""


@dataclass(frozen=True)
class ModelReference:
    """Place of a model, and a factory for every process that sees the same files.

    Parameters
    ----------
    module : str
        Name of a module, or absolute path of a Python or TorchScript file; ``"careamics"`` for a checkpoint.
    name : str
        Name of the model in the module, or absolute path of a checkpoint; empty for TorchScript.
    folder : str
        Absolute path of a folder from which the model may import, like that of a script.

    Examples
    --------
    >>> ModelReference.parse("numpy:negative")()([1, 2]).tolist()
    [-1, -2]
    """

    module: str
    name: str
    folder: str

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Return the reference in a text, or raise ValueError where it is none or its file is missing."""
        module, _, name = text.rpartition(":")
        if text.endswith(TORCH_SCRIPT_SUFFIXES):
            module, name = text, ""
        elif not (module and name):
            raise ValueError(
                f"{text!r} is neither package.module:name, nor path/to/file.py:name, nor a TorchScript file model.pt, "
                "nor careamics:checkpoint.ckpt"
            )
        if module == CAREAMICS and name.endswith(".ckpt"):
            if not Path(name).is_file():
                raise ValueError(f"there is no checkpoint {Path(name).absolute()}")
            return cls(module, str(Path(name).absolute()), str(Path.cwd()))
        if not module.endswith((*TORCH_SCRIPT_SUFFIXES, ".py")):
            return cls(module, name, str(Path.cwd()))
        path = Path(module).absolute()
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        return cls(str(path), name, str(path.parent))

    @property
    def file(self) -> str:
        """The checkpoint, Python or TorchScript file; empty for a module."""
        if self.is_checkpoint:
            return self.name
        return self.module if self.module.endswith((*TORCH_SCRIPT_SUFFIXES, ".py")) else ""

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a checkpoint of CAREamics."""
        return self.module == CAREAMICS and self.name.endswith(".ckpt")

    def describe_model(self) -> "DescribedModel":
        """Return a checkpoint with its axes and tiles; of other models these are not known."""
        from tilewright.model.described import DescribedModel, described  # noqa: PLC0415

        return described(self.name) if self.is_checkpoint else DescribedModel(self)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.name else self.module

    def __call__(self) -> Any:
        """Return the model, or the result of its factory; raise ModelReferenceError where it is not found."""
        from tilewright.model.predictor import is_factory  # noqa: PLC0415

        if self.module.endswith(TORCH_SCRIPT_SUFFIXES):
            return _load_torch_script(self.module)
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        module = _run_file(Path(self.module)) if self.module.endswith(".py") else self._import_module()
        try:
            model = attrgetter(self.name)(module)
        except AttributeError:
            names = [name for name in vars(module) if not name.startswith("_")]
            meant = " or ".join(get_close_matches(self.name, names)) or "another name"
            raise ModelReferenceError(f"{self.module} has no {self.name!r}; did you mean {meant}?") from None
        if isclass(model) and not _can_be_made(model):
            raise ModelReferenceError(
                f"the class {self} cannot be made without arguments; write a function that makes the model, and name it"
            )
        made = model() if isclass(model) or is_factory(model) else model
        if not callable(made) and not hasattr(made, "predict_step"):
            raise ModelReferenceError(f"{self} is {type(made).__name__}, which is no model: {made!r:.80}")
        return made

    def _import_module(self) -> ModuleType:
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                # The module exists, and imports another one that does not.
                raise
            raise ModelReferenceError(
                f"there is no module {self.module!r}: {error.name!r} is neither installed nor in {self.folder}"
            ) from None


def _can_be_made(model: type) -> bool:
    """Tell whether a class can be called without arguments."""
    try:
        signature(model).bind()
    except TypeError:
        return False
    except ValueError:
        # A class that is not written in Python may have no signature.
        pass
    return True


def _run_file(path: Path) -> ModuleType:
    """Import a file anew: it may have changed since a worker imported it."""
    if not path.is_file():
        raise ModelReferenceError(f"there is no file {path} on this worker; put it where all workers see it")
    name = f"tilewright_model_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelReferenceError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Pickle looks up the classes of the file there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _load_torch_script(path: str) -> Any:
    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            # Newer torch recommends torch.export.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise ModelReferenceError(
            f"{path} cannot be loaded as TorchScript ({reason}); weights alone need a function that builds the model: "
            "path/to/file.py:name"
        ) from error
