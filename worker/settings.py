"""Settings of a worker process."""

from typing import Literal

from pydantic import ByteSize, Field

from shared.process.log_config import LogFormat, LogLevel
from shared.registry.queue_settings import QueueSettings

WORKER_ID_PATTERN = r"^[^\s:]{1,64}$"  # part of Redis keys and of a lease's owner


class WorkerSettings(QueueSettings):
    model: str = Field("tiny", description="Folder, hub id, or `tiny` (bundled).")
    chat_template: str | None = Field(
        None,
        description="File of a chat template, or `falcon-instruct`. Unset: the checkpoint's.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the weights. auto: the checkpoint's if the device multiplies it.",
    )
    kv_dtype: Literal["auto", "int8"] = Field(
        "auto", description="Of the KV cache. auto: that of the weights. int8: on OpenVINO."
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda, cuda:N or auto."
    )
    executor: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="torch, openvino (CPU) or auto (the fastest that fits).",
    )
    attention: Literal["auto", "varlen", "reference"] = Field(
        "auto",
        description="On GPUs. varlen: without Triton kernels. reference: plain torch.",
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto",
        description="On GPUs. off: launch each kernel of a decoding step by the host.",
    )
    layers: Literal["fused", "separate"] = Field(
        "fused",
        description="On GPUs. separate: plain torch but for attention, and no merged weights.",
    )
    quantization: Literal["int8", "int8-weight-only", "fp8", "int4"] | None = Field(
        None,
        description="Smaller weights; see docs/guides/quantization.md.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of a step. Unset: by model size.",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes to split the model over, a device each.",
    )
    memory: ByteSize | None = Field(
        None,
        description="Host memory, such as 16GiB. Unset: what is free.",
    )
    device_map: Literal["auto"] | None = Field(
        None,
        description="auto: layers on all GPUs; see docs/guides/gpu.md.",
    )
    adapters_dir: str | None = Field(
        None, description="LoRA adapters; see docs/guides/adapters.md."
    )
    adapter_mode: Literal["merge", "serve"] = Field(
        "merge",
        description="merge into the weights, or serve to requests that name one.",
    )
    runtime_adapters_dir: str | None = Field(
        None,
        description="Folder below which clients may load adapters. Unset: they may load none.",
    )
    max_rows: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Most sequences in a step. Unset: chosen for model and machine.",
    )
    kv_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens in the KV cache. Unset: full contexts of max_rows, at most 32 if "
        "chosen on a CPU, or what fits.",
    )
    block_size: int = Field(32, ge=1, le=1024, description="Tokens per block of the KV cache.")
    max_step_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens in a step; longer prompts are split. Unset: chosen.",
    )
    max_chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="Prompt tokens with one generating sequence; each more adds one. "
        "Unset: chosen.",
    )
    batch_share: float = Field(
        0.05,
        ge=0,
        allow_inf_nan=False,
        description="Time that batches may add to a step of other requests, as a share of it.",
    )
    prompt_lookup: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Drafts per step for requests that set no number. Unset: none.",
    )
    lease_s: float = Field(
        10.0,
        ge=0.5,
        le=3600,
        description="Without renewal, the job moves to another worker.",
    )
    grace_s: float = Field(30.0, ge=0, description="Time for running jobs at a shutdown.")
    max_attempts: int = Field(
        3, ge=1, le=100, description="A job fails after so many deaths of its worker."
    )
    step_timeout_s: float = Field(
        120.0, gt=0, description="After a longer engine step the worker exits."
    )
    metrics_host: str = Field("127.0.0.1", description="Address for probes and metrics.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /livez, /readyz and /metrics; 0 takes a free one. Unset: none.",
    )
    worker_id: str | None = Field(
        None, pattern=WORKER_ID_PATTERN, description="Name. Unset: from the host's name."
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console or json.")
