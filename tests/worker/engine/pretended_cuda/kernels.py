"""Emulations of kernels that need a GPU; a pretended GPU counts the Triton kernels as operators.

Triton's interpreter shows that the kernels equal the same references.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from tests.worker.model.layers.paged_heads import emulated_decode
from worker.model.fused.interface import Norm, PlainKernels, Rotary, Update

LAUNCHES = {"attend_decoding": 2}  # its splits and their combination; other kernels: 1
PLAIN = PlainKernels()


def _normalize(
    residual: torch.Tensor,
    update: torch.Tensor | None,
    update_bias: torch.Tensor | None,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    eps: float,
) -> list[torch.Tensor]:
    norms = [Norm(weight, bias, eps) for weight, bias in zip(weights, biases, strict=True)]
    added = None if update is None else Update(update, update_bias)
    total, normed = PLAIN.add_and_normalize(residual, added, norms)
    return [total.clone(), *normed]


def _place(
    fused: torch.Tensor,
    bias: torch.Tensor | None,
    cosines: torch.Tensor | None,
    sines: torch.Tensor | None,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    rotary = None if cosines is None or sines is None else (cosines, sines)
    return PLAIN.place_heads(fused, bias, rotary, slots, keys, values).clone()


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    block_size: int,
) -> None:
    contexts = emulated_decode(
        *(query.float(), keys.float(), values.float(), block_tables, context_lens),
        None if bias is None else bias.float(),
        block_size=block_size,
        max_context=int(context_lens.max()),
    )
    output.copy_(contexts)


_library = torch.library.Library("triton_kernels", "DEF")
for _schema, _function in {
    "add_and_normalize(Tensor residual, Tensor? update, Tensor? update_bias, Tensor[] weights, "
    "Tensor[] biases, float eps) -> Tensor[]": _normalize,
    "place_heads(Tensor fused, Tensor? bias, Tensor? cosines, Tensor? sines, Tensor slots, "
    "Tensor(a!) keys, Tensor(b!) values) -> Tensor": _place,
    "activate(Tensor wide, Tensor? bias, Tensor(a!) output) -> ()": PLAIN.activate,
    "attend_decoding(Tensor query, Tensor keys, Tensor values, Tensor block_tables, "
    "Tensor context_lens, Tensor? bias, Tensor(a!) output, int block_size) -> ()": _attend,
}.items():
    _library.define(_schema)
    _library.impl(_schema.partition("(")[0], _function, "CPU")
_operators = torch.ops.triton_kernels


def _add_and_normalize(
    residual: torch.Tensor, update: Update | None, norms: Sequence[Norm]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    values, bias = (None, None) if update is None else (update.values, update.bias)
    weights, biases = [norm.weight for norm in norms], [norm.bias for norm in norms]
    total, *normed = _operators.add_and_normalize(
        residual, values, bias, weights, biases, norms[0].eps
    )
    return total, normed


def _place_heads(
    fused: torch.Tensor, bias: torch.Tensor | None, rotary: Rotary | None, *rest: torch.Tensor
) -> Any:
    cosines, sines = (None, None) if rotary is None else rotary
    return _operators.place_heads(fused, bias, cosines, sines, *rest)


def _attend_decoding(
    query: torch.Tensor,
    *tensors: Any,
    block_size: int,
    max_context: int,
) -> torch.Tensor:
    *inputs, output = tensors
    output = torch.empty_like(query) if output is None else output
    _operators.attend_decoding(query, *inputs, output, block_size)
    return output


# By the module that imports Triton.
EMULATED: dict[str, Any] = {
    "worker.model.fused.kernels": SimpleNamespace(
        add_and_normalize=_add_and_normalize,
        place_heads=_place_heads,
        activate=_operators.activate,
    ),
    "worker.model.layers.decode_kernels": SimpleNamespace(attend_decoding=_attend_decoding),
}


def attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *_: object,
) -> torch.Tensor:
    """Emulate the operator behind `varlen_attn`: attend in each sequence, in float32.

    With the roundings of `PagedAttention`, so that both give the same tokens. A window with right
    end 0 hides the keys after a query.
    """
    output = torch.full_like(query, torch.nan)
    group = query.shape[1] // key.shape[1]
    is_causal = is_causal or (window_size is not None and window_size[1] == 0)
    for sequence in range(len(cu_seq_q) - 1):
        queries = slice(int(cu_seq_q[sequence]), int(cu_seq_q[sequence + 1]))
        keys = slice(int(cu_seq_k[sequence]), int(cu_seq_k[sequence + 1]))
        own = key[keys].float().repeat_interleave(group, 1)
        scaled = query[queries].float() / query.shape[2] ** 0.5
        scores = torch.einsum("qhd,khd->hqk", scaled, own)
        if is_causal:
            num_new, num_keys = scores.shape[1:]
            hidden = torch.ones(num_new, num_keys).triu(num_keys - num_new + 1).bool()
            scores = scores.masked_fill(hidden, -torch.inf)
        own = value[keys].float().repeat_interleave(group, 1)
        output[queries] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), own).to(query.dtype)
    return output
