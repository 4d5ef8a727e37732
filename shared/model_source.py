"""What a model is called, and which checkpoint it comes from, before any of it is loaded.

Knows paths and names; no tokenizer and no weights.
"""

from hashlib import sha256
from pathlib import Path

TEXT_FILES = ("*.json", "*.jinja", "additional_chat_templates/*.jinja")


def model_name(model: str) -> str:
    """The name that callers see: a folder's own name, else the hub id as it was given.

    A symbolic link is a name as good as any; "." and ".." are none.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return model
    if path.name in ("", ".."):
        path = path.resolve()
    return path.name or model


def source_digest(model: str) -> str:
    """Hex SHA-256 of the name and of all that a folder says of limits, tokens and templates.

    Two models with the same digest check requests alike, apart from what memory and settings
    allow. Of a hub id the name alone counts: its files may not be here yet.
    """
    digest = sha256(model_name(model).encode())
    folder = Path(model).expanduser()
    for pattern in TEXT_FILES if folder.is_dir() else ():
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                content = sha256(file.read_bytes())
                digest.update(file.name.encode() + b"\0" + content.digest())
    return digest.hexdigest()
