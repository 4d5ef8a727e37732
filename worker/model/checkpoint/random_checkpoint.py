"""Checkpoints of random weights in the published format: for tests, sizing and benchmarks.

Written by transformers' own `save_pretrained`, so that reading one exercises the real format.
"""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from worker.host_memory import format_bytes, free_memory
from worker.model.config import ModelConfig
from worker.model.errors import CheckpointError

# Ids 0 to 11 of the published tokenizer.
SPECIAL_TOKENS = (
    ">>TITLE<<",
    ">>ABSTRACT<<",
    ">>INTRODUCTION<<",
    ">>SUMMARY<<",
    ">>COMMENT<<",
    ">>ANSWER<<",
    ">>QUESTION<<",
    ">>DOMAIN<<",
    ">>PREFIX<<",
    ">>SUFFIX<<",
    ">>MIDDLE<<",
    "<|endoftext|>",
)
END_OF_TEXT_ID = 11
NUM_BYTE_TOKENS = 256
_SAVING_BYTES = 192 * 2**20  # besides the weights: transformers and its libraries

# The fields of config.json that define each style, at any size.
STYLES: dict[str, dict[str, Any]] = {
    "7b": {"multi_query": True, "parallel_attn": True},
    "40b": {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2},
    "11b": {
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False,
    },
    "rw": {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
}

PUBLISHED_SIZES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71},
    "40b": {
        "hidden_size": 8192,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
        "num_kv_heads": 8,
    },
    "11b": {
        "hidden_size": 4096,
        "num_hidden_layers": 60,
        "num_attention_heads": 32,
        "num_kv_heads": 8,
        "max_position_embeddings": 8192,
    },
    "rw": {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "vocab_size": 50304,
    },
}
SMALL_SIZE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_kv_heads": 2,
    "vocab_size": 512,
}


def write_random_checkpoint(
    directory: str | Path,
    *,
    like: str = "7b",
    full_size: bool = False,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    vocab_size: int | None = None,
    context_length: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
) -> Path:
    """Write config, weights and a byte-level tokenizer of a Falcon `like` 7b, 40b, 11b or rw.

    Sizes that are not given are small, or published with `full_size`. `num_kv_heads` is
    for the styles that group heads (40b, 11b). The same arguments give the same weights. A
    vocabulary too small for every byte gets no tokenizer. Raises ValueError for impossible sizes
    and for a folder that is not empty.
    """
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": context_length,
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    fields = config_fields(like, full_size=full_size)
    if "num_kv_heads" in given.keys() - fields.keys():
        raise ValueError(f"num_kv_heads does not apply to {like}: its heads are not grouped")
    return _write(Path(directory), fields | given, seed, dtype, max_shard_size)


def config_fields(like: str, *, full_size: bool) -> dict[str, Any]:
    """Return the config.json of a style, small or published. Raises ValueError for others."""
    if like not in STYLES:
        raise ValueError(f"like must be one of {', '.join(STYLES)}, got {like!r}")
    size = {"vocab_size": 65024} | PUBLISHED_SIZES[like] if full_size else SMALL_SIZE
    fields = {
        "model_type": "falcon",
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
    }
    fields |= STYLES[like] | size
    if not fields.get("new_decoder_architecture"):
        fields.pop("num_kv_heads", None)
    return fields


def _write(
    directory: Path, fields: dict[str, Any], seed: int, dtype: torch.dtype, max_shard_size: str
) -> Path:
    try:
        config = ModelConfig.from_dict(fields)
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    if config.vocab_size <= END_OF_TEXT_ID:
        raise ValueError(f"vocab_size must exceed {END_OF_TEXT_ID}, got {config.vocab_size}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not an empty folder")
    needed, free = config.num_parameters * dtype.itemsize + _SAVING_BYTES, free_memory()
    if needed > free.num_bytes:
        raise ValueError(
            f"making it needs {format_bytes(needed)} of memory, "
            f"but {format_bytes(free.num_bytes)} are {free.source}"
        )
    _save_model(directory, fields, seed, dtype, max_shard_size)
    if config.vocab_size >= len(SPECIAL_TOKENS) + NUM_BYTE_TOKENS:
        _save_tokenizer(directory, config)
    return directory


def _save_model(
    directory: Path, fields: dict[str, Any], seed: int, dtype: torch.dtype, max_shard_size: str
) -> None:
    from transformers import FalconConfig, FalconForCausalLM

    with torch.device("meta"):  # takes no time for weights that are replaced
        model: Any = FalconForCausalLM(FalconConfig(**fields))  # its `to` has no type
    model.to(dtype).to_empty(device="cpu")
    model.tie_weights()
    _randomize(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(directory, max_shard_size=max_shard_size)


@torch.no_grad()
def _randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Randomize every weight at the scale of its kind, in the order of the network."""
    for name, parameter in model.named_parameters():
        mean = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0  # layer norms
        parameter.normal_(mean, _std(name, parameter), generator=generator)


def _std(name: str, parameter: torch.Tensor) -> float:
    """Return a scale that keeps logits some units apart and makes the whole prompt matter.

    Attention must be selective (queries and keys of gain 2) and strong against the residual (gain
    3). Embeddings stay small against the layers' outputs: tied to the head, larger embeddings
    would make every token predict itself.
    """
    if parameter.dim() == 1:
        return 0.1
    gains = {"query_key_value": 2.0, "attention.dense": 3.0, "embeddings": 2.0, "lm_head": 2.0}
    gain = next((gain for part, gain in gains.items() if part in name), 1.5)
    return gain / math.sqrt(parameter.shape[1])


def _save_tokenizer(directory: Path, config: ModelConfig) -> None:
    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL_TOKENS, *byte_tokens]
    by_use = sorted(byte_tokens, key=_rank)  # pairs of common characters first
    pairs = sorted(product(range(NUM_BYTE_TOKENS), repeat=2), key=max)
    merges = [(by_use[i], by_use[j]) for i, j in pairs[: config.vocab_size - len(tokens)]]
    tokens += [first + second for first, second in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[END_OF_TEXT_ID],
        "eos_token": SPECIAL_TOKENS[END_OF_TEXT_ID],
        "model_max_length": config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _rank(token: str) -> int:
    """Return the rank among the most common English characters (Ġ is the space)."""
    rank = "Ġetaoinsrhldcum".find(token)
    return rank if rank >= 0 else NUM_BYTE_TOKENS
