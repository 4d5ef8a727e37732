"""Name and digest of a model, from its path or hub id, without loading it; merged adapters."""

from hashlib import sha256
from pathlib import Path

import msgspec

TEXT_FILES = ("*.json", "*.jinja", "additional_chat_templates/*.jinja")


class MergedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is part of a model's weights."""

    name: str
    strength: float
    digest: str  # of its files


def model_name(model: str) -> str:
    """Return the name that the API shows: the name of the folder, or the hub id as given.

    Symbolic links keep their name. `.` and `..` are resolved first.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return model
    if path.name in ("", ".."):
        path = path.resolve()
    return path.name or model


def source_digest(model: str) -> str:
    """Return the hex SHA-256 of the name and of a folder's JSON and template files.

    Models with equal digests check requests equally, apart from memory and settings. The digest of
    a hub id covers only its name, because its files may not be downloaded yet.
    """
    digest = sha256(model_name(model).encode())
    folder = Path(model).expanduser()
    for pattern in TEXT_FILES if folder.is_dir() else ():
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                content = sha256(file.read_bytes())
                digest.update(file.name.encode() + b"\0" + content.digest())
    return digest.hexdigest()
