"""Attention on a GPU gives its kernels what makes them equal the plain reference.

The kernels are emulated on the CPU; a test marked `gpu` calls them.
"""

import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import pad

from tests.worker.model.layers.paged_heads import (
    CPU,
    NUM_LAYERS,
    Batch,
    copy_of,
    draw_heads,
    emulated_decode,
    emulated_varlen,
    lay_out,
    make_cache,
)
from worker.model.kv_cache import AttentionKernels, AttentionMetadata
from worker.model.layers.attention import PagedAttention
from worker.model.layers.cuda_attention import CudaAttention, plan_attention, plan_parts
from worker.model.layers.decode_attention import DecodeKernel, HeadShape, decode_kernel
from worker.model.layers.flash_attention import VarlenKernel, kernel_serves
from worker.model.layers.rotary import alibi_slopes

HEADS = [(6, 1), (8, 2), (3, 3)]  # query and KV heads of the 7b, 40b and rw styles

# Prompts whole and in chunks, decoding, all together.
BATCHES: list[Batch] = [
    [(1, 1)],
    [(5, 1), (4, 1), (17, 1)],
    [(7, 7)],
    [(9, 4), (1, 1), (12, 12), (8, 1)],
]
KERNELS = [(emulated_decode, emulated_varlen), (None, emulated_varlen), (emulated_decode, None)]
MODULE = "worker.model.layers.decode_kernels"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
@pytest.mark.parametrize(("decode", "varlen"), KERNELS)
def test_the_kernels_are_given_what_makes_them_equal_the_reference(
    batch: Batch,
    num_heads: int,
    num_kv_heads: int,
    decode: DecodeKernel | None,
    varlen: VarlenKernel | None,
) -> None:
    torch.manual_seed(0)
    kv_cache = make_cache(num_kv_heads, num_blocks=30)
    metadata = lay_out(batch, kv_cache)
    other = copy_of(kv_cache, CPU, torch.float32)
    slopes = None if varlen else alibi_slopes(num_heads)
    reference = PagedAttention.plan(kv_cache, metadata, slopes)
    planned = plan_parts(other, metadata, slopes, decode=decode, varlen=varlen)
    for layer in range(NUM_LAYERS):
        heads = draw_heads(metadata.cu_seqlens_q[-1], num_heads, kv_cache)
        torch.testing.assert_close(planned(layer, *heads), reference(layer, *heads))
    torch.testing.assert_close(other.keys, kv_cache.keys, equal_nan=True)


@pytest.mark.parametrize("alibi", [True, False])
@pytest.mark.parametrize("decode", [emulated_decode, None])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
def test_lengths_on_the_device_change_no_context(
    num_heads: int, num_kv_heads: int, decode: DecodeKernel | None, *, alibi: bool
) -> None:
    torch.manual_seed(0)
    kv_cache = make_cache(num_kv_heads, num_blocks=30)
    metadata = lay_out([(5, 1), (4, 1), (17, 1)], kv_cache)
    fixed = replace(
        metadata,
        context_lens=[40] * 3,
        block_tables=pad(metadata.block_tables, (0, 5)),
        fixed_lens=torch.tensor(metadata.context_lens, dtype=torch.int32),
    )
    slopes = alibi_slopes(num_heads) if alibi else None
    other = copy_of(kv_cache, CPU, torch.float32)
    reference = PagedAttention.plan(kv_cache, metadata, slopes)
    planned = plan_parts(other, fixed, slopes, decode=decode, varlen=emulated_varlen)
    heads = draw_heads(3, num_heads, kv_cache)
    torch.testing.assert_close(planned(0, *heads), reference(0, *heads))


def test_a_prompt_in_a_step_leaves_decoding_sequences_a_call_without_a_window() -> None:
    kv_cache = make_cache(1, num_blocks=30)
    metadata = lay_out([(9, 4), (1, 1), (12, 12), (8, 1)], kv_cache)
    calls = []

    def recorded(*args: torch.Tensor | int, window_size: tuple[int, int]) -> torch.Tensor:
        query, *_, max_q, _max_k = args
        assert isinstance(query, torch.Tensor)
        calls.append((len(query), max_q, window_size))
        return query

    attention = plan_parts(kv_cache, metadata, None, decode=None, varlen=recorded)
    attention(0, *draw_heads(metadata.cu_seqlens_q[-1], 6, kv_cache))
    assert calls == [(2, 1, (-1, -1)), (16, 12, (-1, 0))]


def test_the_varlen_kernel_takes_rotary_heads_in_half_precision_alone() -> None:
    assert kernel_serves(torch.bfloat16, 64, alibi=False)
    assert kernel_serves(torch.float16, 256, alibi=False)
    assert not kernel_serves(torch.float32, 64, alibi=False)
    assert not kernel_serves(torch.bfloat16, 64, alibi=True)
    assert not kernel_serves(torch.bfloat16, 60, alibi=False)
    assert not kernel_serves(torch.bfloat16, 264, alibi=False)


def head_shape(block_size: int, **changes: object) -> HeadShape:
    """The kernel is loaded once for a shape: each test has a block size of its own."""
    shape = {"dtype": torch.float32, "num_kv_heads": 2, "group": 3, "head_dim": 16, "alibi": True}
    return HeadShape(device=CPU, block_size=block_size, **(shape | changes))


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"dtype": torch.bfloat16, "group": 71, "head_dim": 64}, True),
        ({"dtype": torch.float16, "group": 16, "head_dim": 256}, True),
        ({"group": 1, "head_dim": 64}, True),
        ({"group": 71, "head_dim": 64}, False),  # spills registers in float32
        ({"dtype": torch.bfloat16, "group": 71, "head_dim": 128}, False),
        ({"head_dim": 24}, True),  # padded
        ({"head_dim": 8}, True),
        ({"dtype": torch.int8}, False),
    ],
)
def test_the_triton_kernel_takes_shapes_that_it_compiles_for(
    changes: dict[str, object], *, fits: bool
) -> None:
    assert head_shape(1, **changes).fits == fits


def test_a_kernel_that_equals_the_reference_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(attend_decoding=emulated_decode))
    assert decode_kernel(head_shape(2)) is emulated_decode
    assert "attention of decoding rows: Triton kernel" in caplog.text


def test_a_kernel_with_wrong_results_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(query: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return query * torch.nan

    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(attend_decoding=wrong))
    assert decode_kernel(head_shape(3)) is None
    assert "its result is wrong by nan" in caplog.text


def test_without_triton_a_warning_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    assert [decode_kernel(head_shape(5)) for _ in range(2)] == [None, None]
    [record] = caplog.records
    assert "slower: ModuleNotFoundError: import of triton halted" in record.getMessage()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_computes_by_the_reference(dtype: torch.dtype) -> None:
    kv_cache = make_cache(1, num_blocks=30, dtype=dtype)
    metadata = lay_out([(5, 2)], kv_cache)
    assert isinstance(plan_attention(kv_cache, metadata, None, group=6), PagedAttention)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", [*BATCHES, [(300, 1), (700, 1), (513, 2)]])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
@pytest.mark.parametrize("kernels", [AttentionKernels.AUTO, AttentionKernels.VARLEN])
@pytest.mark.parametrize("alibi", [False, True])
def test_on_a_gpu_the_kernels_agree_with_the_reference(
    batch: Batch, num_heads: int, num_kv_heads: int, kernels: AttentionKernels, *, alibi: bool
) -> None:
    torch.manual_seed(0)
    gpu, group = torch.device("cuda", 0), num_heads // num_kv_heads
    kv_cache = make_cache(num_kv_heads, num_blocks=600, head_dim=64, dtype=torch.bfloat16)
    metadata = on(gpu, lay_out(batch, kv_cache), kernels)
    kv_cache = copy_of(kv_cache, gpu, torch.bfloat16)
    other = copy_of(kv_cache, gpu, torch.bfloat16)
    slopes = alibi_slopes(num_heads).to(gpu) if alibi else None
    reference = PagedAttention.plan(kv_cache, metadata, slopes)
    planned = plan_attention(other, metadata, slopes, group)
    if not alibi or kernels is AttentionKernels.AUTO:
        assert isinstance(planned, CudaAttention)
    heads = draw_heads(metadata.cu_seqlens_q[-1], num_heads, kv_cache)
    torch.testing.assert_close(planned(0, *heads), reference(0, *heads), atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads_and_group", [(1, 71), (8, 16), (32, 1)])
def test_on_a_gpu_the_triton_kernel_serves_the_published_models(
    kv_heads_and_group: tuple[int, int],
) -> None:
    num_kv_heads, group = kv_heads_and_group
    kv_cache = make_cache(
        num_kv_heads,
        8,
        block_size=32,
        head_dim=64,
        dtype=torch.bfloat16,
        device=torch.device("cuda", 0),
    )
    assert decode_kernel(HeadShape.of(kv_cache, group, alibi=group == 1)) is not None


def on(
    device: torch.device, metadata: AttentionMetadata, kernels: AttentionKernels
) -> AttentionMetadata:
    metadata = metadata.to(device)
    metadata.kernels = kernels
    return metadata
