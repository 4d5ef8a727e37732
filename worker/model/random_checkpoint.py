"""Checkpoints of random weights in the published format: for tests, sizing and benchmarks.

Written by transformers' own `save_pretrained`, so that reading one exercises the real format.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# Ids 0 to 11 of the published tokenizer, in its order.
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

# What makes each style, at any size.
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

# The published sizes; parameters in the order of `write_random_checkpoint`.
FULL_SIZES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4544, "num_layers": 32, "num_heads": 71, "vocab_size": 65024},
    "40b": {
        "hidden_size": 8192,
        "num_layers": 60,
        "num_heads": 128,
        "num_kv_heads": 8,
        "vocab_size": 65024,
    },
    "11b": {
        "hidden_size": 4096,
        "num_layers": 60,
        "num_heads": 32,
        "num_kv_heads": 8,
        "vocab_size": 65024,
        "context_length": 8192,
    },
    "rw": {"hidden_size": 2048, "num_layers": 24, "num_heads": 32, "vocab_size": 50304},
}
SMALL_SIZE = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 8,
    "num_kv_heads": 2,
    "vocab_size": 512,
    "context_length": 2048,
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

    Sizes not given are small ones, or the published ones when `full_size`. `num_kv_heads` counts
    in the styles that group heads (40b, 11b). The same arguments give the same weights. A
    vocabulary too small for every byte gets no tokenizer. Raises ValueError for other sizes.
    """
    if like not in STYLES:
        raise ValueError(f"like must be one of {', '.join(STYLES)}, got {like!r}")
    given = {
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "vocab_size": vocab_size,
        "context_length": context_length,
    }
    size = SMALL_SIZE | (FULL_SIZES[like] if full_size else {})
    size |= {name: value for name, value in given.items() if value is not None}
    directory = Path(directory)
    _save_model(directory, like, size, seed, dtype, max_shard_size)
    if size["vocab_size"] >= len(SPECIAL_TOKENS) + NUM_BYTE_TOKENS:
        _save_tokenizer(directory, size["vocab_size"], size["context_length"])
    return directory


def _save_model(
    directory: Path, like: str, size: dict[str, int], seed: int, dtype: torch.dtype, shard: str
) -> None:
    from transformers import FalconConfig, FalconForCausalLM

    if size["vocab_size"] <= END_OF_TEXT_ID:
        raise ValueError(f"vocab_size must exceed {END_OF_TEXT_ID}, got {size['vocab_size']}")
    config = FalconConfig(
        hidden_size=size["hidden_size"],
        num_hidden_layers=size["num_layers"],
        num_attention_heads=size["num_heads"],
        num_kv_heads=size["num_kv_heads"] if "new_decoder_architecture" in STYLES[like] else None,
        vocab_size=size["vocab_size"],
        max_position_embeddings=size["context_length"],
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        **STYLES[like],
    )
    with torch.device("meta"):  # no time for weights that are thrown away
        model: Any = FalconForCausalLM(config)  # its `to` is decorated out of any type
    model.to(dtype).to_empty(device="cpu")
    model.tie_weights()
    _randomize(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(directory, max_shard_size=shard)


@torch.no_grad()
def _randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every weight at the scale of its kind, in the order of the network."""
    for name, parameter in model.named_parameters():
        mean = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0  # layer norms
        parameter.normal_(mean, _std(name, parameter), generator=generator)


def _std(name: str, parameter: torch.Tensor) -> float:
    """A scale that keeps logits some units apart and lets the whole prompt matter.

    Attention must pick (queries and keys of gain 2) and be heard over the residual (gain 3).
    Embeddings stay small beside what layers add: tied to the head, larger ones would have every
    token predict itself.
    """
    if parameter.dim() == 1:
        return 0.1
    gains = {"query_key_value": 2.0, "attention.dense": 3.0, "embeddings": 2.0, "lm_head": 2.0}
    gain = next((gain for part, gain in gains.items() if part in name), 1.5)
    return gain / math.sqrt(parameter.shape[1])


def _save_tokenizer(directory: Path, vocab_size: int, context_length: int) -> None:
    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_commonest_first)
    tokens = [*SPECIAL_TOKENS, *sorted(byte_tokens)]
    merges = [(first, second) for first in byte_tokens for second in byte_tokens]
    merges = merges[: vocab_size - len(tokens)]
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
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _commonest_first(token: str) -> tuple[int, str]:
    """Sort key: the commonest characters of English (Ġ is the space), then the rest."""
    rank = "Ġetaoinsrhld".find(token)
    return (rank if rank >= 0 else NUM_BYTE_TOKENS, token)
