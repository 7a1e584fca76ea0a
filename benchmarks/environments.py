"""What contradicts the requirements of tilewright runs in an environment of its own, which is made on first use."""

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "environments"
TORCH = "torch>=2.4,<2.14"


@dataclass(frozen=True)
class Environment:
    """What is installed, and what of it without asking for its own requirements."""

    name: str
    requirements: tuple[str, ...]
    without_their_own: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    def interpreter(self) -> Path:
        """Return the interpreter of this environment, which is made if it is not there as a whole."""
        finished = self.folder / "finished"
        # Not resolved: the interpreter finds its environment by where the link lies.
        interpreter = self.folder / "bin" / "python"
        if not finished.exists():
            print(f"making an environment for {self.name}", file=sys.stderr, flush=True)
            venv.create(self.folder, with_pip=True, clear=True)
            install = [str(interpreter), "-m", "pip", "install", "--quiet"]
            log = sys.stderr
            if self.without_their_own:
                subprocess.run([*install, "--no-deps", *self.without_their_own], check=True, stdout=log)
            subprocess.run([*install, *self.requirements, TORCH], check=True, stdout=log)
            finished.touch()
        return interpreter


CAREAMICS = Environment(
    "careamics",
    requirements=(
        "bioimageio-core>=0.9,<=0.11",
        "lightning>=2.2,!=2.6.2,!=2.6.3,<=2.6.6",
        "matplotlib",
        "microssim",
        "numpy>=1.26,<=2.4.6",
        "pillow",
        "psutil",
        "pydantic>=2.11,<=2.14.1",
        "pyyaml",
        "scikit-image",
        "tifffile",
        "torchmetrics>0.7,<1.9",
        "zarr>=3.1,<4",
    ),
    # It pins a torchvision, and with it an older torch.
    without_their_own=("careamics>=0.3.5,<0.4",),
)
