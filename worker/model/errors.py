"""Errors of checkpoints."""

from pathlib import Path

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class CheckpointError(Exception):
    """A checkpoint cannot be served; the message says what is wrong and what would help."""


def unreadable(file: Path, error: object) -> CheckpointError:
    """Return the error for a file that cannot be read; it names Git LFS pointers as such."""
    if is_lfs_pointer(file):
        return CheckpointError(
            f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"
        )
    return CheckpointError(f"{file} cannot be read: {error}")


def is_lfs_pointer(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False
