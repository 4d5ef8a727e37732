"""The bundled tiny Falcon.

`tools/tiny_falcon/` and the README.md in its folder say how it was made.
"""

import shutil
from pathlib import Path


def bundled_checkpoint() -> Path:
    """Return the folder of the bundled checkpoint: Hugging Face layout, 4 MB."""
    return Path(__file__).parents[1] / "bundled" / "falcon-tiny"


def copy_bundled(directory: Path) -> Path:
    """Copy the bundled checkpoint into `directory`, which is created if it does not exist.

    Raises FileExistsError if `directory` is a file or not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not an empty folder: name a new one")
    shutil.copytree(bundled_checkpoint(), directory, dirs_exist_ok=True)
    return directory
