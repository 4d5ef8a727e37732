"""What a Falcon checkpoint's config.json says about the network, checked and in our own terms.

Owns the shapes and everything that follows from them alone (parameters, KV bytes). Knows nothing
of weights, devices or files other than config.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message says what is wrong and what would help."""


class BlockStyle(StrEnum):
    """How attention and MLP of a decoder layer hang together."""

    PARALLEL = "parallel"  # both read one layer norm: falcon-7b, falcon-11b
    PARALLEL_TWO_NORMS = "parallel, two norms"  # each reads its own: falcon-40b
    SEQUENTIAL = "sequential"  # MLP after attention, as in GPT-2: falcon-rw


# Rotary variants whose frequencies do not depend on the length of the sequence, within the context
# that the configuration states ("dynamic" rescales only beyond it).
STATIC_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of one Falcon network.

    `num_kv_heads` are the heads that keys and values really have: 1 in falcon-7b, 8 in
    falcon-40b, all of them in falcon-rw. `context_length` counts tokens, prompt included.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_hidden_size: int
    block_style: BlockStyle
    context_length: int
    layer_norm_epsilon: float
    activation: str
    bias: bool
    alibi: bool
    rope_parameters: Mapping[str, Any]  # "rope_type", "rope_theta" and what the type needs
    tie_word_embeddings: bool
    dtype: torch.dtype | None  # what the checkpoint says it is in

    @classmethod
    def from_checkpoint(cls, path: Path) -> "ModelConfig":
        """Parse `path`/config.json. Raises CheckpointError."""
        return cls.from_dict(read_json(path / "config.json"))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Parse the fields of a config.json of transformers 4 or 5. Raises CheckpointError."""
        _check_family(raw)
        hidden_size = _positive(raw, "hidden_size", raw.get("n_embed", 4544))
        num_heads = _positive(raw, "num_attention_heads", 71)
        alibi = bool(raw.get("alibi", False))
        if hidden_size % num_heads:
            raise CheckpointError(
                f"config.json: hidden_size {hidden_size} is not a multiple of "
                f"num_attention_heads {num_heads}"
            )
        if not alibi and (hidden_size // num_heads) % 2:
            raise CheckpointError(
                f"config.json: rotary embeddings need an even head size, "
                f"got {hidden_size // num_heads}"
            )
        return cls(
            vocab_size=_positive(raw, "vocab_size", 65024),
            hidden_size=hidden_size,
            num_layers=_positive(raw, "num_hidden_layers", 32),
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(raw, num_heads),
            ffn_hidden_size=_positive(raw, "ffn_hidden_size", 4 * hidden_size),
            block_style=_block_style(raw),
            context_length=_positive(raw, "max_position_embeddings", 2048),
            layer_norm_epsilon=float(raw.get("layer_norm_epsilon", 1e-5)),
            activation=str(raw.get("activation", "gelu")),
            bias=bool(raw.get("bias", False)),
            alibi=alibi,
            rope_parameters=_rope_parameters(raw),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", True)),
            dtype=_dtype(raw),
        )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def style(self) -> str:
        """The published model this one is shaped like: "7b", "40b", "11b", "rw" or "custom"."""
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
        """Weights of the whole network, tied embeddings counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        final_norm = 2 * self.hidden_size
        return embeddings + final_norm + self.num_layers * self._parameters_per_layer()

    def _parameters_per_layer(self) -> int:
        hidden, ffn = self.hidden_size, self.ffn_hidden_size
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        num_norms = 1 if self.block_style is BlockStyle.PARALLEL else 2
        biases = qkv + hidden + ffn + hidden if self.bias else 0
        return hidden * (qkv + hidden + 2 * ffn) + biases + num_norms * 2 * hidden

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of KV cache one token takes over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype.itemsize


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError when it is absent or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no {path.name} in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def _check_family(raw: Mapping[str, Any]) -> None:
    model_type = raw.get("model_type")
    if model_type in ("RefinedWeb", "RefinedWebModel"):
        raise CheckpointError(
            f"config.json is in the old remote-code format (model_type {model_type!r}); "
            "take a newer revision of the checkpoint, whose model_type is 'falcon'"
        )
    if model_type != "falcon":
        raise CheckpointError(f"not a Falcon checkpoint: model_type is {model_type!r}")
    if raw.get("quantization_config"):
        raise CheckpointError("quantized checkpoints are not supported: take the full weights")


def _positive(raw: Mapping[str, Any], name: str, default: int) -> int:
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {name} must be a positive integer, got {value!r}")
    return value


def _num_kv_heads(raw: Mapping[str, Any], num_heads: int) -> int:
    if raw.get("new_decoder_architecture", False):
        num_kv_heads = _positive(raw, "num_kv_heads", num_heads)
        if num_heads % num_kv_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {num_heads} is not a multiple of "
                f"num_kv_heads {num_kv_heads}"
            )
        return num_kv_heads
    return 1 if raw.get("multi_query", True) else num_heads


def _block_style(raw: Mapping[str, Any]) -> BlockStyle:
    new_architecture = bool(raw.get("new_decoder_architecture", False))
    parallel = bool(raw.get("parallel_attn", True))
    num_norms = raw.get("num_ln_in_parallel_attn")
    if num_norms is None:
        num_norms = 2 if new_architecture else 1
    match new_architecture, parallel, num_norms:
        case True, True, 2:
            return BlockStyle.PARALLEL_TWO_NORMS
        case _, True, 1:
            return BlockStyle.PARALLEL
        case False, False, _:
            return BlockStyle.SEQUENTIAL
    raise CheckpointError(
        f"config.json: no Falcon has new_decoder_architecture={new_architecture}, "
        f"parallel_attn={parallel} and num_ln_in_parallel_attn={num_norms} together"
    )


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the three spellings in use (`rope_parameters`, `rope_scaling`, neither) to one."""
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise CheckpointError(f"config.json: rope_scaling must be an object, got {given!r}")
    parameters = {
        **given,
        "rope_type": given.get("rope_type", given.get("type", "default")),
        "rope_theta": given.get("rope_theta", raw.get("rope_theta", 10000.0)),
    }
    parameters.pop("type", None)
    _check_rope(parameters)
    return parameters


def _check_rope(parameters: Mapping[str, Any]) -> None:
    rope_type, theta = parameters["rope_type"], parameters["rope_theta"]
    if rope_type not in STATIC_ROPE_TYPES:
        raise CheckpointError(
            f"config.json: rotary embeddings of type {rope_type!r} are not supported, "
            f"only {', '.join(STATIC_ROPE_TYPES)}"
        )
    if not isinstance(theta, int | float) or theta <= 0:
        raise CheckpointError(f"config.json: rope_theta must be a positive number, got {theta!r}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError("config.json: Falcon rotates whole heads, partial_rotary_factor ≠ 1")


def _dtype(raw: Mapping[str, Any]) -> torch.dtype | None:
    name = raw.get("dtype") or raw.get("torch_dtype")
    if name is None:
        return None
    if name not in DTYPES:
        raise CheckpointError(
            f"config.json: dtype {name!r} is not supported, only {', '.join(DTYPES)}"
        )
    return DTYPES[name]
