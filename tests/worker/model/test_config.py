import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import FalconConfig
from transformers import FalconForCausalLM as OracleForCausalLM

from worker.model.config import BlockStyle, ModelConfig
from worker.model.errors import CheckpointError

# The published config.json files, as far as they state shapes.
FALCON_7B = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "multi_query": True,
    "parallel_attn": True,
    "new_decoder_architecture": False,
    "vocab_size": 65024,
    "torch_dtype": "bfloat16",
}
FALCON_40B = {
    "model_type": "falcon",
    "hidden_size": 8192,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "num_kv_heads": 8,
    "parallel_attn": True,
    "new_decoder_architecture": True,
    "vocab_size": 65024,
    "torch_dtype": "bfloat16",
}
FALCON_RW_1B = {
    "model_type": "falcon",
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "multi_query": False,
    "parallel_attn": False,
    "alibi": True,
    "bias": True,
    "vocab_size": 50304,
}
FALCON_11B = {
    "model_type": "falcon",
    "hidden_size": 4096,
    "num_hidden_layers": 60,
    "num_attention_heads": 32,
    "num_kv_heads": 8,
    "new_decoder_architecture": True,
    "num_ln_in_parallel_attn": 1,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
    "rope_theta": 500042.0,
}
PUBLISHED = [FALCON_7B, FALCON_40B, FALCON_RW_1B, FALCON_11B]


@pytest.mark.parametrize(
    ("raw", "style", "kv_kib_per_token", "num_kv_heads"),
    [
        (FALCON_7B, "7b", 8, 1),
        (FALCON_40B, "40b", 120, 8),
        (FALCON_RW_1B, "rw", 192, 32),
        (FALCON_11B, "11b", 240, 8),
    ],
)
def test_published_shapes_cache_only_the_kv_heads_they_have(
    raw: dict[str, Any], style: str, kv_kib_per_token: int, num_kv_heads: int
) -> None:
    config = ModelConfig.from_dict(raw)
    assert config.style == style
    assert config.num_kv_heads == num_kv_heads
    assert config.kv_bytes_per_token(torch.bfloat16) == kv_kib_per_token * 1024
    assert config.kv_bytes_per_token(torch.float32) == 2 * kv_kib_per_token * 1024


@pytest.mark.parametrize("raw", PUBLISHED)
def test_parameters_are_counted_as_transformers_counts_them(raw: dict[str, Any]) -> None:
    with torch.device("meta"):
        oracle: Any = OracleForCausalLM(FalconConfig(**raw))
    assert ModelConfig.from_dict(raw).num_parameters == oracle.num_parameters()


@given(
    num_heads=st.integers(1, 16),
    num_kv_heads=st.integers(1, 16),
    new_decoder_architecture=st.booleans(),
    multi_query=st.booleans(),
    parallel_attn=st.booleans(),
    bias=st.booleans(),
    tie_word_embeddings=st.booleans(),
    num_norms=st.sampled_from([None, 1, 2]),
)
def test_every_accepted_combination_has_the_parameters_of_the_oracle(
    num_heads: int, num_kv_heads: int, num_norms: int | None, **flags: bool
) -> None:
    raw: dict[str, Any] = {
        "hidden_size": 8 * num_heads,
        "num_attention_heads": num_heads,
        "num_kv_heads": num_kv_heads if flags["new_decoder_architecture"] else None,
        "num_hidden_layers": 2,
        "num_ln_in_parallel_attn": num_norms,
        "vocab_size": 20,
        **flags,
    }
    try:
        config = ModelConfig.from_dict({"model_type": "falcon", **raw})
    except CheckpointError:
        return
    with torch.device("meta"):
        oracle: Any = OracleForCausalLM(FalconConfig(**raw))
    assert config.num_parameters == oracle.num_parameters()


@pytest.mark.parametrize(
    ("today", "legacy"),
    [
        (
            FALCON_7B,
            {
                "model_type": "RefinedWebModel",
                "hidden_size": 4544,
                "n_layer": 32,
                "n_head": 71,
                "multi_query": True,
                "parallel_attn": True,
                "torch_dtype": "bfloat16",
            },
        ),
        (
            FALCON_40B,
            {
                "model_type": "RefinedWeb",
                "hidden_size": 8192,
                "n_layer": 60,
                "n_head": 128,
                "n_head_kv": 8,
                "parallel_attn": True,
                "torch_dtype": "bfloat16",
            },
        ),
        (
            FALCON_RW_1B,
            {
                "model_type": "RefinedWebModel",
                "hidden_size": 2048,
                "n_layer": 24,
                "n_head": 32,
                "alibi": True,
                "bias": True,
                "vocab_size": 50304,
            },
        ),
    ],
)
def test_the_first_releases_configs_mean_what_todays_do(
    today: dict[str, Any], legacy: dict[str, Any]
) -> None:
    unused = {"apply_residual_connection_post_layernorm": False, "auto_map": {}, "use_cache": True}
    assert ModelConfig.from_dict(legacy | unused) == ModelConfig.from_dict(today)


def test_missing_fields_of_a_config_have_the_defaults_of_falcon_7b() -> None:
    config = ModelConfig.from_dict({"model_type": "falcon"})
    assert config == ModelConfig.from_dict(FALCON_7B | {"torch_dtype": None})
    assert config.context_length == 2048
    assert config.ffn_hidden_size == 4 * 4544
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert config.block_style is BlockStyle.PARALLEL
    assert config.dtype is None


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    ],
)
def test_old_and_new_spellings_of_rope_mean_the_same(spelling: dict[str, Any]) -> None:
    config = ModelConfig.from_dict({"model_type": "falcon", **spelling})
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_stated_dtype_is_read_under_both_of_its_names(key: str) -> None:
    config = ModelConfig.from_dict({"model_type": "falcon", key: "bfloat16"})
    assert config.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "not a Falcon checkpoint: model_type is 'llama'"),
        ({"model_type": None}, "not a Falcon checkpoint"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
        ({"hidden_size": True}, "hidden_size must be a positive integer"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, got 'many'"),
        ({"hidden_size": 4545}, "hidden_size 4545 is not a multiple of num_attention_heads 71"),
        ({"hidden_size": 71 * 3}, "even head size, got 3"),
        ({"layer_norm_epsilon": "tiny"}, "layer_norm_epsilon must be a positive number"),
        ({"activation": 7}, "activation must be a string, got 7"),
        (
            {"new_decoder_architecture": True, "num_kv_heads": 8},
            "num_attention_heads 71 is not a multiple of num_kv_heads 8",
        ),
        ({"new_decoder_architecture": True, "parallel_attn": False}, "no Falcon has"),
        ({"num_ln_in_parallel_attn": 2}, "no Falcon has"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope' are not supported"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_theta": -1}, "rope_theta must be a positive number, got -1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"torch_dtype": "int8"}, "dtype 'int8' is not supported"),
        ({"torch_dtype": ["bfloat16"]}, "torch_dtype must be a string"),
        ({"bias": 1}, "bias must be true or false, got 1"),
        ({"rope_theta": math.nan}, "rope_theta must be a positive number, got nan"),
        ({"layer_norm_epsilon": math.inf}, "layer_norm_epsilon must be a positive number, got inf"),
        ({"rope_theta": 0}, "rope_theta must be a positive number, got 0"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict(FALCON_7B | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no config.json in"), ("{", "cannot be read"), ("[1]", "holds no JSON object")],
)
def test_an_unreadable_config_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_checkpoint(tmp_path)


@given(st.dictionaries(st.sampled_from([*FALCON_40B, "alibi", "rope_scaling"]), st.none()))
def test_null_means_the_default(nulls: dict[str, None]) -> None:
    without = {name: value for name, value in FALCON_40B.items() if name not in nulls}
    if nulls.keys() & {"model_type", "num_attention_heads", "hidden_size"}:
        return
    raw = json.loads(json.dumps(FALCON_40B | nulls))
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(without)
