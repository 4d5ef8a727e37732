import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import FalconConfig
from transformers.models.falcon.modeling_falcon import FalconRotaryEmbedding, build_alibi_tensor

from worker.model.config import ModelConfig
from worker.model.errors import CheckpointError
from worker.model.layers.rotary import RotaryEmbedding, alibi_bias, alibi_slopes, compute_inv_freq


def make_config(**fields: object) -> ModelConfig:
    return ModelConfig.from_dict({"model_type": "falcon", **fields})


@given(
    num_heads=st.integers(1, 130),
    num_positions=st.integers(1, 2048),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_alibi_is_bit_for_bit_that_of_transformers(
    num_heads: int, num_positions: int, dtype: torch.dtype
) -> None:
    mask = torch.ones(1, num_positions, dtype=torch.long)
    expected = build_alibi_tensor(mask, num_heads, dtype).view(num_heads, num_positions)
    bias = alibi_bias(alibi_slopes(num_heads), num_positions, 64, dtype)
    assert bias.dtype == dtype
    assert torch.equal(bias, expected / 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rope_theta", [10000.0, 500042.0])
def test_rotary_is_bit_for_bit_that_of_transformers(rope_theta: float, dtype: torch.dtype) -> None:
    positions = torch.arange(2048)
    reference = FalconRotaryEmbedding(
        FalconConfig(rope_parameters={"rope_type": "default", "rope_theta": rope_theta})
    )
    expected = reference(torch.empty(0, dtype=dtype), positions[None])
    actual = RotaryEmbedding(make_config(rope_theta=rope_theta))(positions, dtype)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours[:, 0], theirs[0])


def test_dynamic_rope_within_the_context_is_the_plain_one() -> None:
    plain, _ = compute_inv_freq(make_config())
    dynamic, _ = compute_inv_freq(make_config(rope_scaling={"type": "dynamic", "factor": 3.0}))
    assert torch.equal(plain, dynamic)


def test_frequencies_are_computed_for_a_network_on_the_meta_device() -> None:
    with torch.device("meta"):
        inv_freq, _ = compute_inv_freq(make_config(rope_scaling={"type": "linear", "factor": 2.0}))
        slopes = alibi_slopes(12)
    assert inv_freq.device.type == slopes.device.type == "cpu"


@pytest.mark.parametrize(
    "scaling", [{"type": "linear"}, {"type": "linear", "factor": "four"}, {"rope_type": "llama3"}]
)
def test_scaling_without_its_parameters_is_refused(scaling: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="rope scaling"):
        compute_inv_freq(make_config(rope_scaling=scaling))
