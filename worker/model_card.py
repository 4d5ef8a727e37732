"""Describe this worker's model for the api: limits, special tokens, chat template, tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

import msgspec

from shared.errors import BadRequest, BrokenChatTemplate
from shared.model_source import MergedAdapter, model_name, source_digest
from shared.protocol import Message, ModelCard
from shared.request.chat_template import ChatTemplate, compile_template
from worker.engine import Engine
from worker.model.checkpoint.adapter_folders import CONFIG_FILE, AdapterFolder
from worker.model.checkpoint.adapter_weights import find_weights
from worker.model.checkpoint.weights import plan_loading
from worker.model.errors import CheckpointError
from worker.model.tokenizer.chat_template_files import (
    find_chat_template,
    load_template_tokens,
    read_named_template,
)
from worker.model.tokenizer.special_tokens import SpecialTokens, load_special_tokens


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """A checkpoint's files about prompts, checked against its embedding table."""

    special: SpecialTokens
    chat_template: str | None
    template_tokens: dict[str, str]


def read_prompt_files(checkpoint: Path, chat_template: str | None = None) -> PromptFiles:
    """Read special tokens and chat template, but no weights. Raises CheckpointError.

    `chat_template` names another template than that of the checkpoint.
    """
    template = load_chat_template(checkpoint, chat_template)
    vocab_size = plan_loading(checkpoint).model.config.vocab_size
    tokens = load_template_tokens(checkpoint)
    conversation = "" if template is None else _shortest_conversation(template, tokens)
    special = load_special_tokens(checkpoint, vocab_size, conversation)
    return PromptFiles(special, template, tokens)


def _shortest_conversation(template: str, tokens: Mapping[str, str]) -> str:
    """Render one user message; return "" if the template refuses such a conversation."""
    try:
        return ChatTemplate(template, tokens).render((Message(role="user", content="a"),))
    except BadRequest:
        return ""


def describe_model(
    model: str, files: PromptFiles, engine: Engine, merged: Sequence[MergedAdapter] = ()
) -> tuple[ModelCard, bytes]:
    """Return the card of a loaded model and its tokenizer.json.

    `model` is the name in the settings; `merged` lists the adapters in the weights.
    """
    special = files.special
    config = engine.model_config
    card = ModelCard(
        name=model_name(model),
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        eos_token_ids=list(special.eos_token_ids),
        pad_token_id=special.pad_token_id,
        bos_token_id=special.bos_token_id,
        chat_template=files.chat_template,
        max_rows=engine.config.max_rows,
        max_kv_tokens=engine.total_kv_tokens,
        max_num_beams=engine.config.max_rows,
        adapters=tuple(engine.adapters),
        merged_adapters=tuple(merged) or msgspec.UNSET,
        source=source_digest(model),
        template_tokens=files.template_tokens if files.chat_template else msgspec.UNSET,
    )
    return card, engine.tokenizer.to_str().encode()


def describe_merged(folders: Sequence[AdapterFolder]) -> tuple[MergedAdapter, ...]:
    """Return name, strength and contents of the adapters that are merged into a model's weights.

    Raises OSError if a file cannot be read, CheckpointError if there is none.
    """
    return tuple(
        MergedAdapter(name=folder.name, strength=folder.strength, digest=_digest(folder))
        for folder in folders
    )


def _digest(folder: AdapterFolder) -> str:
    """Return the hex SHA-256 of the weights and of the config, which holds their scale."""
    both = sha256()
    for path in (folder.path / CONFIG_FILE, find_weights(folder)):
        with path.open("rb") as file:
            both.update(file_digest(file, "sha256").digest())
    return both.hexdigest()


def load_chat_template(checkpoint: Path, name: str | None = None) -> str | None:
    """Read and compile the named chat template, or the checkpoint's; None if it has none.

    Raises CheckpointError with file and line.
    """
    template = find_chat_template(checkpoint) if name is None else read_named_template(name)
    if template is None:
        return None
    try:
        compile_template(template.source)
    except BrokenChatTemplate as error:
        line = "" if error.line is None else f", line {error.line}"
        raise CheckpointError(
            f"{template.place}{line}: the chat template cannot be parsed: {error.message}"
        ) from error
    return template.source
