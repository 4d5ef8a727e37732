"""The Triton kernels equal the reference; `test_decode_kernels` runs this in Triton's interpreter.

The interpreter computes bfloat16 wrongly: only a GPU can show that dtype.
"""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.worker.model.layers.paged_heads import CPU, copy_of, draw_heads, lay_out, make_cache
from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.attention import PagedAttention
from worker.model.layers.cuda_attention import plan_parts
from worker.model.layers.decode_kernels import SPLIT_KEYS, attend_decoding
from worker.model.layers.int8_kernels import multiply_int8
from worker.model.layers.rotary import alibi_bias, alibi_slopes

SPLIT = SPLIT_KEYS.value
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3}
# Contexts at the borders of splits, tiles and blocks, and any others.
CONTEXTS = st.one_of(st.sampled_from([1, 63, 64, 65, SPLIT, SPLIT + 1]), st.integers(1, 600))


@settings(max_examples=30)
@given(
    contexts=st.lists(CONTEXTS, min_size=1, max_size=4),
    num_kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 5, 16, 17]),
    head_dim=st.sampled_from([8, 16, 24, 32]),
    block_size=st.sampled_from([1, 7, 16, 32, 300]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    alibi=st.booleans(),
)
@example([1, 33, 130], 1, 71, 64, 32, torch.float16, False)  # falcon-7b
@example([5, 300], 2, 16, 64, 16, torch.float32, False)  # falcon-40b
@example([64, 257], 3, 1, 64, 32, torch.float32, True)  # falcon-rw
def test_decoding_equals_the_reference(
    contexts: list[int],
    num_kv_heads: int,
    group: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    alibi: bool,
) -> None:
    torch.manual_seed(0)
    num_blocks = len(contexts) * -(-max(contexts) // block_size)
    kv_cache = make_cache(
        num_kv_heads, num_blocks, block_size=block_size, head_dim=head_dim, dtype=dtype
    )
    metadata = lay_out([(context, 1) for context in contexts], kv_cache)
    other = copy_of(kv_cache, CPU, dtype)
    num_heads = num_kv_heads * group
    slopes = alibi_slopes(num_heads) if alibi else None
    heads = draw_heads(len(contexts), num_heads, kv_cache)
    expected = PagedAttention.plan(kv_cache, metadata, slopes)(0, *heads)
    actual = plan_parts(other, metadata, slopes, decode=attend_decoding, varlen=None)(0, *heads)
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES[dtype])


def test_a_row_alone_equals_the_row_in_a_batch_bit_for_bit() -> None:
    torch.manual_seed(0)
    kv_cache, metadata = a_batch([3, SPLIT, 700, 65])
    query, *_ = draw_heads(4, 6, kv_cache)
    slopes = alibi_slopes(6)
    together = attend(kv_cache, metadata, query, slopes)
    for row in range(4):
        alone = attend(kv_cache, metadata.select([row]), query[row : row + 1], slopes)
        assert torch.equal(alone[0], together[row])


def test_room_for_longer_contexts_changes_no_bit() -> None:
    torch.manual_seed(0)
    kv_cache, metadata = a_batch([3, SPLIT, 300])
    query, *_ = draw_heads(3, 6, kv_cache)
    slopes = alibi_slopes(6)
    contexts = attend(kv_cache, metadata, query, slopes)
    roomy = attend(kv_cache, metadata, query, slopes, max_context=4 * SPLIT)
    assert torch.equal(roomy, contexts)


def test_a_row_without_keys_gets_zeros() -> None:
    kv_cache, metadata = a_batch([3, 65])
    query, *_ = draw_heads(2, 6, kv_cache)
    metadata.context_lens = [0, 65]
    contexts = attend(kv_cache, metadata, query, None)
    assert torch.equal(contexts[0], torch.zeros(6, 16))
    assert contexts[1].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("stored", ["keys", "values"])
def test_values_that_are_not_finite_stay_in_their_row(stored: str) -> None:
    kv_cache, metadata = a_batch([40, 65])
    slot = int(metadata.block_tables[0, 0]) * kv_cache.block_size
    getattr(kv_cache, stored)[:, slot] = torch.nan
    contexts = attend(kv_cache, metadata, torch.ones(2, 6, 16), None)
    assert not contexts[0].isfinite().all()
    assert contexts[1].isfinite().all()


def a_batch(contexts: list[int]) -> tuple[KVCache, AttentionMetadata]:
    """Decoding sequences whose keys are all cached."""
    num_blocks = len(contexts) * -(-max(contexts) // 16)
    kv_cache = make_cache(2, num_blocks, block_size=16, head_dim=16)
    metadata = lay_out([(context, 1) for context in contexts], kv_cache)
    _, keys, values = draw_heads(len(contexts), 6, kv_cache)
    kv_cache.write(0, keys, values, metadata.slot_mapping)
    return kv_cache, metadata


def attend(
    kv_cache: KVCache,
    metadata: AttentionMetadata,
    query: torch.Tensor,
    slopes: torch.Tensor | None,
    max_context: int | None = None,
) -> torch.Tensor:
    max_context = max_context or max(metadata.context_lens)
    return attend_decoding(
        query,
        kv_cache.keys[0],
        kv_cache.values[0],
        metadata.block_tables,
        torch.tensor(metadata.context_lens, dtype=torch.int32),
        None if slopes is None else alibi_bias(slopes, max_context, 16, torch.float32),
        block_size=kv_cache.block_size,
        max_context=max_context,
    )


# Of results around 1. Sums are in float32, and rounded once.
PRODUCT_TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3}


@settings(max_examples=30, deadline=None)
@given(
    num_rows=st.integers(1, 70),
    num_columns=st.integers(1, 600),
    num_outputs=st.integers(1, 70),
    padding=st.sampled_from([0, 24]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
@example(num_rows=65, num_columns=513, num_outputs=33, padding=7, dtype=torch.float16)
def test_the_product_is_that_of_the_scaled_weights(
    num_rows: int, num_columns: int, num_outputs: int, padding: int, dtype: torch.dtype
) -> None:
    input, weight, scale = draw_product(num_rows, num_columns + padding, num_outputs, dtype)
    input, weight = input[:, :num_columns], weight[:, :num_columns].contiguous()
    expected = input.double() @ (weight.double() * scale.double()[:, None]).T
    error = (multiply_int8(input, weight, scale).double() - expected).abs()
    assert (error <= PRODUCT_TOLERANCES[dtype] * (1 + expected.abs())).all()


def test_a_row_multiplied_alone_equals_the_row_in_a_batch_bit_for_bit() -> None:
    input, weight, scale = draw_product(16, 300, 40, torch.float16)
    together = multiply_int8(input, weight, scale)
    for row in range(16):
        assert torch.equal(multiply_int8(input[row : row + 1], weight, scale)[0], together[row])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
def test_nan_stays_in_its_row() -> None:
    input, weight, scale = draw_product(3, 300, 40, torch.float16)
    input[1] = torch.nan
    product = multiply_int8(input, weight, scale)
    assert product[1].isnan().all()
    assert product[[0, 2]].isfinite().all()


def draw_product(
    num_rows: int, num_columns: int, num_outputs: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (num_outputs, num_columns), dtype=torch.int8)
    scale = torch.rand(num_outputs) / 1000
    return torch.randn(num_rows, num_columns).to(dtype), weight, scale.to(dtype)
