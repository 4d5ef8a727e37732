"""What the api must know of this worker's model: limits, special tokens, template, tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shared.protocol import MergedAdapter, ModelCard
from worker.engine import Engine
from worker.model.checkpoint import load_chat_template, load_special_tokens


def describe_model(
    name: str, checkpoint: Path, engine: Engine, merged: Sequence[MergedAdapter] = ()
) -> tuple[ModelCard, bytes]:
    """The card and the tokenizer.json that go with it; `merged` adapters are in the weights.

    Raises CheckpointError.
    """
    special = load_special_tokens(checkpoint)
    config = engine.model_config
    card = ModelCard(
        name=name,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        eos_token_ids=list(special.eos_token_ids),
        pad_token_id=special.pad_token_id,
        bos_token_id=special.bos_token_id,
        chat_template=load_chat_template(checkpoint),
        max_rows=engine.config.max_rows,
        max_kv_tokens=engine.total_kv_tokens,
        max_num_beams=engine.config.max_rows,
        adapters=engine.adapters,
        merged_adapters=tuple(merged) or msgspec.UNSET,
    )
    return card, (checkpoint / "tokenizer.json").read_bytes()
