"""Importing costs next to nothing, and the core knows the standard library only."""

import subprocess
import sys

import pytest

import tilewright

HEAVY = {"numpy", "torch", "dask", "distributed", "zarr", "numcodecs", "pytorch_lightning", "tifffile", "tqdm"}


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("package", ["geometry", "plan", "coordinator", "errors"])
def test_the_core_loads_no_package_but_its_own(package: str) -> None:
    foreign = loaded_by(f"import tilewright.{package}") - loaded_by("pass") - set(sys.stdlib_module_names)
    assert foreign == {"tilewright"}


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert not loaded_by("import tilewright") & HEAVY


def test_a_plan_is_made_without_anything_heavy() -> None:
    statement = "import tilewright as tw; str(tw.plan_write((99, 99), 'YX', (32, 32), (8, 8)))"
    assert not loaded_by(statement) & HEAVY


def test_every_name_of_the_package_can_be_had() -> None:
    assert all(getattr(tilewright, name) is not None for name in tilewright.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tilewright.nonsense  # noqa: B018
