"""Find a checkpoint's chat template and the special tokens it may name, as transformers does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.model.errors import CheckpointError, is_lfs_pointer, unreadable
from worker.model.json_fields import read_optional

FALCON_INSTRUCT = "falcon-instruct"  # a bundled template, with System:, User: and Falcon:
DEFAULT = "default"  # the name of the chat template, if a checkpoint has several templates


@dataclass(frozen=True, slots=True)
class TemplateFile:
    source: str
    place: str  # where it was read from, for messages


def find_chat_template(folder: Path) -> TemplateFile | None:
    """Find the chat template: in files of its own, else in tokenizer_config.json.

    chat_template.json, which processors of older versions wrote, comes last. Returns None if there
    is no template, or if all templates have names other than "default". Raises CheckpointError.
    """
    if files := _template_files(folder):
        file = files.get(DEFAULT)
        return None if file is None else TemplateFile(_read(file), file.name)
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_optional(folder / name).get("chat_template")
        if template is not None:
            source = _default_of(template, name)
            return None if source is None else TemplateFile(source, f"{name}: chat_template")
    return None


def read_named_template(name: str) -> TemplateFile:
    """Read the template that a setting names: `falcon-instruct`, or a file.

    Raises CheckpointError.
    """
    bundled = Path(__file__).parents[1] / "bundled" / f"{FALCON_INSTRUCT}.jinja"
    file = bundled if name == FALCON_INSTRUCT else Path(name)
    return TemplateFile(_read(file), file.name)


def load_template_tokens(folder: Path) -> dict[str, str]:
    """Load the special tokens by the names for templates: `bos_token`, `eos_token` and others."""
    config = read_optional(folder / "tokenizer_config.json")
    tokens = _named_tokens(config)
    if "added_tokens_decoder" not in config:  # of a tokenizer of an older version
        tokens |= _named_tokens(read_optional(folder / "special_tokens_map.json"))
    return tokens


def _template_files(folder: Path) -> dict[str, Path]:
    """Return the template files by name; if there are any, templates in JSON files do not count."""
    main = folder / "chat_template.jinja"
    others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return ({DEFAULT: main} if main.is_file() else {}) | {file.stem: file for file in others}


def _read(file: Path) -> str:
    if is_lfs_pointer(file):  # it would pass as a template
        raise unreadable(file, "it is a pointer")
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error


def _default_of(template: Any, file: str) -> str | None:
    if isinstance(template, list):  # several, each with its name
        template = {e.get("name"): e.get("template") for e in template if isinstance(e, dict)}
    source = template.get(DEFAULT) if isinstance(template, dict) else template
    if source is not None and not isinstance(source, str):
        raise CheckpointError(
            f"{file}: chat_template must be a string or a list of named ones, got {template!r}"
        )
    return source


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return every `..._token` with a text, and the tokens in `extra_special_tokens`."""
    extra = config.get("extra_special_tokens")
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    named |= extra if isinstance(extra, dict) else {}
    texts = {name: _text_of(token) for name, token in named.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _text_of(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
