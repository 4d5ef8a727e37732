"""Forecast the host memory that a network takes, from its shapes, before a weight is read.

`_weight_bytes` is the table by variant; docs/reference/sizing.md compares measured peaks.
"""

from dataclasses import dataclass

import torch
from torch import nn

from worker.engine.config import EngineConfig
from worker.engine.execution.executor import Executor
from worker.model.config import BlockStyle, ModelConfig
from worker.model.falcon import FalconForCausalLM
from worker.model.layers.packed_linear import PACKED_DTYPES
from worker.model.layers.quantization import Quantization
from worker.model.quantized_linears import weight_bytes
from worker.model.tensor_parallel import TensorParallel

_MIB = 2**20
# A worker before it loads a model: Python, torch, the queue. Measured: 147 to 170 MiB.
PROCESS_BYTES = 192 * _MIB
# What loading adds to the weights: libraries, kernels, compiled code, the tokenizer.
_LIBRARY_BYTES = 128 * _MIB


@dataclass(frozen=True, slots=True)
class LoadVariant:
    """The dtype, executor and quantization that a network is loaded with."""

    dtype: torch.dtype
    executor: Executor  # never AUTO
    quantization: Quantization | None = None
    kv_dtype: torch.dtype | None = None  # None: that of the weights

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.kv_dtype or self.dtype

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        quantized = f", quantization {self.quantization}" if self.quantization else ""
        cached = f", kv_dtype {str(self.kv_dtype).removeprefix('torch.')}" if self.kv_dtype else ""
        return f"dtype {dtype}, executor {self.executor}{quantized}{cached}"


@dataclass(frozen=True, slots=True)
class HostForecast:
    """Bytes that loading adds to the process."""

    variant: LoadVariant
    loading_bytes: int  # the peak of loading
    resident_bytes: int  # after loading, without the KV cache
    step_bytes: int  # temporary memory of the largest step
    kv_bytes: int  # of the configured KV cache, else of one block
    row_bytes: int  # of a sequence of full length in the KV cache
    reason: str = ""  # for the dtype, to follow "because"

    @property
    def needed_bytes(self) -> int:
        return max(self.loading_bytes, self.resident_bytes + self.step_bytes + self.kv_bytes)


def forecast_host(
    variant: LoadVariant,
    model: FalconForCausalLM,
    config: EngineConfig,
    *,
    device: torch.device,
    num_parts: int = 1,
    adapter_bytes: int = 0,
    stores_head: bool = False,
    embeddings_dtype: torch.dtype | None = None,
) -> HostForecast:
    """Forecast what loading `model`, a whole one on the meta device, takes on this machine.

    It is loaded in `num_parts` processes. `adapter_bytes` is the size of the adapters' files.
    `stores_head`: the checkpoint holds the head apart from the embeddings it is tied to.
    """
    part, quantization = _part(model, num_parts), variant.quantization
    loading, resident = _weight_bytes(variant, part)
    if quantization:
        loading, resident = _quantized_bytes(variant, quantization, part, embeddings_dtype, device)
    adapters = 3 * adapter_bytes + (4 * max(_num_weights(part)) if adapter_bytes else 0)
    loading += adapters
    reads_head = quantization is None or not quantization.includes_head
    if stores_head and model.config.tie_word_embeddings and reads_head:
        loading += model.lm_head.weight.numel() * variant.dtype.itemsize
    if device.type != "cpu":
        # Weights go from the mapped file to the device, except weights to quantize.
        return HostForecast(
            variant, num_parts * (loading if quantization else adapters), 0, 0, 0, 0
        )
    fixed = num_parts * _LIBRARY_BYTES + (num_parts - 1) * PROCESS_BYTES
    kv_bytes_per_token = model.config.kv_bytes_per_token(variant.cache_dtype)
    return HostForecast(
        variant,
        loading_bytes=num_parts * loading + fixed,
        resident_bytes=num_parts * resident + fixed + 2 * adapter_bytes,
        step_bytes=_step_bytes(variant, model.config, config),
        kv_bytes=(config.num_blocks or 1) * config.block_size * kv_bytes_per_token,
        row_bytes=model.config.context_length * kv_bytes_per_token,
    )


def meta_model(model_config: ModelConfig) -> FalconForCausalLM:
    """Make a network on the meta device, for its shapes."""
    with torch.device("meta"):
        return FalconForCausalLM(model_config)


def _part(model: FalconForCausalLM, num_parts: int) -> FalconForCausalLM:
    if num_parts == 1:
        return model
    with torch.device("meta"):
        return FalconForCausalLM(model.config, TensorParallel(0, num_parts))


def _weight_bytes(variant: LoadVariant, model: FalconForCausalLM) -> tuple[int, int]:
    """Return the peak while weights are read and packed, and what stays of them, on a CPU."""
    size = variant.dtype.itemsize
    tied = model.lm_head.weight.numel() if model.config.tie_word_embeddings else 0
    whole = weight_bytes(model, variant.dtype, None).total
    linears, body = _num_weights(model), _num_weights(model.transformer)
    if variant.executor is not Executor.TORCH:
        # OpenVINO keeps a copy of each layer, and shares only the embeddings.
        copied = whole + sum(linears) * size
        return copied, copied
    if variant.dtype not in PACKED_DTYPES:  # nor do a few CPUs and builds of torch pack
        return whole, whole
    # One layer at a time exists twice; a tied head stays tied.
    return whole + tied * size + max(body if tied else linears) * size, whole + tied * size


def _quantized_bytes(
    variant: LoadVariant,
    quantization: Quantization,
    model: FalconForCausalLM,
    embeddings_dtype: torch.dtype | None,
    device: torch.device,
) -> tuple[int, int]:
    """Return the peak while weights are read and quantized, and what stays of them.

    On a GPU no quantized weight stays. OpenVINO's constants are in a file: its copies count.
    """
    kept = weight_bytes(model, variant.dtype, quantization, embeddings_dtype)
    size, head = variant.dtype.itemsize, model.lm_head.weight.numel()
    is_openvino = variant.executor is Executor.OPENVINO
    # A weight is held in 8 bits too, and in torch's layout. OpenVINO's layers are joined before.
    largest = max(_num_weights(model.transformer))
    if is_openvino and model.config.block_style is not BlockStyle.SEQUENTIAL:
        largest += model.config.hidden_size**2
    staged = kept.plain + (2 * size if is_openvino else size + 2) * largest
    if device.type != "cpu":
        return staged, 0
    resident = kept.total
    if quantization.includes_head:
        staged = max(staged, kept.plain + (size + (1 if is_openvino else 2)) * head)
    elif is_openvino or (model.config.tie_word_embeddings and variant.dtype in PACKED_DTYPES):
        resident += head * size  # a copy in the layout of the product
    if is_openvino:
        return max(staged, resident), resident
    return max(staged, resident + (size + 2) * largest), resident


def _num_weights(model: nn.Module) -> list[int]:
    """Return the number of weights of each linear layer."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [linear.weight.numel() for linear in linears]


def _step_bytes(variant: LoadVariant, model_config: ModelConfig, config: EngineConfig) -> int:
    """Return the bytes of one layer's activations in the largest step, and of sampling."""
    num_tokens, context = config.max_step_tokens, model_config.context_length
    per_token = 2 * model_config.ffn_hidden_size + 6 * model_config.hidden_size
    if variant.executor is Executor.TORCH:  # scores of all keys, before and after the softmax
        per_token += 2 * model_config.num_heads * context
    return 4 * (num_tokens * per_token + 4 * config.max_rows * model_config.vocab_size)
