"""The shape of a Falcon network, parsed and checked from config.json, and the sizes it implies."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from worker.model.json_fields import JsonFields, read_json


class BlockStyle(StrEnum):
    """The order of attention and MLP in a decoder layer."""

    PARALLEL = "parallel"  # both read one layer norm: falcon-7b, falcon-11b
    PARALLEL_TWO_NORMS = "parallel, two norms"  # each reads its own: falcon-40b
    SEQUENTIAL = "sequential"  # MLP after attention, as in GPT-2: falcon-rw


# Rotary variants with frequencies that do not depend on the length of the sequence, in the context
# that the configuration states ("dynamic" rescales only beyond it).
STATIC_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of one Falcon network."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # that keys and values really have: falcon-7b 1, falcon-40b 8, falcon-rw all
    ffn_hidden_size: int
    block_style: BlockStyle
    context_length: int  # in tokens, with the prompt
    layer_norm_epsilon: float
    activation: str
    bias: bool
    alibi: bool
    rope_parameters: Mapping[str, Any]  # "rope_type", "rope_theta" and what the type needs
    tie_word_embeddings: bool
    dtype: torch.dtype | None  # that config.json states

    @classmethod
    def from_checkpoint(cls, path: Path) -> "ModelConfig":
        """Parse `path`/config.json. Raises CheckpointError."""
        return cls.from_dict(read_json(path / "config.json"))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Parse the fields of a config.json of transformers 4 or 5, or of the first releases.

        Raises CheckpointError.
        """
        fields = JsonFields("config.json", _with_current_names(raw))
        _check_family(fields)
        hidden_size = fields.integer("hidden_size", 4544)
        num_heads = fields.integer("num_attention_heads", 71)
        alibi = fields.flag("alibi", False)
        _check_head_size(fields, hidden_size, num_heads, rotary=not alibi)
        return cls(
            vocab_size=fields.integer("vocab_size", 65024),
            hidden_size=hidden_size,
            num_layers=fields.integer("num_hidden_layers", 32),
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(fields, num_heads),
            ffn_hidden_size=fields.integer("ffn_hidden_size", 4 * hidden_size),
            block_style=_block_style(fields),
            context_length=fields.integer("max_position_embeddings", 2048),
            layer_norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
            activation=fields.text("activation", "gelu"),
            bias=fields.flag("bias", False),
            alibi=alibi,
            rope_parameters=_rope_parameters(fields),
            tie_word_embeddings=fields.flag("tie_word_embeddings", True),
            dtype=_dtype(fields),
        )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def style(self) -> str:
        """Return the published model of this shape: "7b", "40b", "11b", "rw" or "custom"."""
        grouped = self.num_kv_heads not in (1, self.num_heads)
        match self.block_style, self.alibi:
            case BlockStyle.PARALLEL_TWO_NORMS, False:
                return "40b"
            case BlockStyle.PARALLEL, False if grouped:
                return "11b"
            case BlockStyle.PARALLEL, False if self.num_kv_heads == 1:
                return "7b"
            case BlockStyle.SEQUENTIAL, True:
                return "rw"
            case _:
                return "custom"

    @property
    def num_parameters(self) -> int:
        """Return the number of weights of the whole network, tied embeddings counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        final_norm = 2 * self.hidden_size
        return embeddings + final_norm + self.num_layers * self._parameters_per_layer()

    @property
    def is_small(self) -> bool:
        """Return whether threads wait longer than they compute."""
        return self.num_parameters < 20_000_000

    def _parameters_per_layer(self) -> int:
        hidden, ffn = self.hidden_size, self.ffn_hidden_size
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        num_norms = 1 if self.block_style is BlockStyle.PARALLEL else 2
        biases = qkv + hidden + ffn + hidden if self.bias else 0
        return hidden * (qkv + hidden + 2 * ffn) + biases + num_norms * 2 * hidden

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Return the bytes of KV cache that one token takes over all layers.

        In int8, OpenVINO adds scales and zero points: for each value, and for each column of a
        block of 32 keys.
        """
        bytes_per_head = 2 * self.head_dim * dtype.itemsize
        if dtype == torch.int8:
            bytes_per_head += 8 + 8 * self.head_dim // 32
        return self.num_layers * self.num_kv_heads * bytes_per_head


# model_type of the first releases, which had their own code: falcon-40b's, then that of falcon-7b
# and falcon-rw.
LEGACY_GROUPED, LEGACY = "RefinedWeb", "RefinedWebModel"
_LEGACY_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_kv_heads",
}


def is_legacy(raw: Mapping[str, Any]) -> bool:
    """Return whether a config.json is of the first releases."""
    return raw.get("model_type") in (LEGACY_GROUPED, LEGACY)


def _with_current_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the fields of the first releases, and add the defaults of their code.

    The weights are the same: only config.json changed when transformers adopted Falcon.
    """
    current = {**raw}
    if raw.get("n_embed") is not None:
        current["hidden_size"] = raw["n_embed"]  # it takes precedence, as in transformers
    if not is_legacy(raw):
        return current
    for legacy, name in _LEGACY_NAMES.items():
        if current.get(name) is None:
            current[name] = raw.get(legacy)
    if raw["model_type"] == LEGACY_GROUPED or current["num_kv_heads"] is not None:
        defaults = {"new_decoder_architecture": True, "parallel_attn": True}
    else:
        defaults = {"multi_query": False, "parallel_attn": False}
    return defaults | {n: v for n, v in current.items() if v is not None} | {"model_type": "falcon"}


def _check_family(fields: JsonFields) -> None:
    model_type = fields.text("model_type", "")
    if model_type != "falcon":
        raise fields.error(f"not a Falcon checkpoint: model_type is {model_type!r}")
    if fields.mapping("quantization_config").raw:
        raise fields.error("quantized checkpoints are not supported: take the full weights")


def _check_head_size(fields: JsonFields, hidden_size: int, num_heads: int, *, rotary: bool) -> None:
    head_size, rest = divmod(hidden_size, num_heads)
    if rest:
        raise fields.error(
            f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}"
        )
    if rotary and head_size % 2:
        raise fields.error(f"rotary embeddings need an even head size, got {head_size}")


def _num_kv_heads(fields: JsonFields, num_heads: int) -> int:
    if not fields.flag("new_decoder_architecture", False):
        return 1 if fields.flag("multi_query", True) else num_heads
    num_kv_heads = fields.integer("num_kv_heads", num_heads)
    if num_heads % num_kv_heads:
        raise fields.error(
            f"num_attention_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}"
        )
    return num_kv_heads


def _block_style(fields: JsonFields) -> BlockStyle:
    new_architecture = fields.flag("new_decoder_architecture", False)
    parallel = fields.flag("parallel_attn", True)
    num_norms = fields.integer("num_ln_in_parallel_attn", 2 if new_architecture else 1)
    match new_architecture, parallel, num_norms:
        case True, True, 2:
            return BlockStyle.PARALLEL_TWO_NORMS
        case _, True, 1:
            return BlockStyle.PARALLEL
        case False, False, _:
            return BlockStyle.SEQUENTIAL
    raise fields.error(
        f"no Falcon has new_decoder_architecture={new_architecture}, "
        f"parallel_attn={parallel} and num_ln_in_parallel_attn={num_norms} together"
    )


def _rope_parameters(fields: JsonFields) -> dict[str, Any]:
    """Unify the spellings in use: `rope_parameters`, `rope_scaling`, or neither."""
    given = fields.mapping("rope_scaling")
    if not given.raw:
        given = fields.mapping("rope_parameters")
    rope_type = given.text("rope_type", given.text("type", "default"))
    if rope_type not in STATIC_ROPE_TYPES:
        raise fields.error(
            f"rotary embeddings of type {rope_type!r} are not supported, "
            f"only {', '.join(STATIC_ROPE_TYPES)}"
        )
    if given.number("partial_rotary_factor", 1.0) != 1.0:
        raise fields.error("Falcon rotates whole heads, but partial_rotary_factor is not 1")
    theta = given.number("rope_theta", fields.number("rope_theta", 10000.0))
    rest = {name: value for name, value in given.raw.items() if name != "type"}
    return rest | {"rope_type": rope_type, "rope_theta": theta}


def _dtype(fields: JsonFields) -> torch.dtype | None:
    name = fields.text("dtype", fields.text("torch_dtype", "")).removeprefix("torch.")
    if name and name not in DTYPES:
        raise fields.error(f"dtype {name!r} is not supported, only {', '.join(DTYPES)}")
    return DTYPES.get(name)
