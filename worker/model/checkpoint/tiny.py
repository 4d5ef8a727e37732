"""Where the tiny Falcon in the box lies, and how to take it out; knows nothing of its contents.

How it was made: `tools/tiny_falcon/` in the source tree, and the README.md beside the weights.
"""

import shutil
from pathlib import Path


def bundled_checkpoint() -> Path:
    """Folder of the checkpoint that ships with Falconer: Hugging Face layout, 4 MB."""
    return Path(__file__).parents[1] / "bundled" / "falcon-tiny"


def copy_bundled(directory: Path) -> Path:
    """Copy the bundled checkpoint into `directory`, which is made where it is missing.

    Raises FileExistsError where `directory` holds anything already, or is a file.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not an empty folder: name a new one")
    shutil.copytree(bundled_checkpoint(), directory, dirs_exist_ok=True)
    return directory
