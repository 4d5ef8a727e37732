"""Settings of a worker process."""

from typing import Literal

from pydantic import ByteSize, Field

from shared.process.log_config import LogFormat, LogLevel
from shared.process.settings import ProcessSettings

WORD = r"^[^\s:]{1,64}$"  # goes into Redis keys and fencing tokens


class WorkerSettings(ProcessSettings):
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis with the queue; see docs/guides/redis.md."
    )
    queue: str = Field(
        "falconer:queue", min_length=1, max_length=128, description="Name of the queue."
    )
    model: str = Field("tiny", description="Checkpoint: a folder, a hub id, or `tiny` (bundled).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of weights and KV cache. auto: on GPU the checkpoint's; on CPU float32, or "
        "bfloat16 if only that fits.",
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda, cuda:N or auto."
    )
    executor: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="Backend: torch, openvino (CPU, float32) or auto (the fastest that fits).",
    )
    quantization: Literal["int8", "int8-weight-only", "fp8"] | None = Field(
        None,
        description="8-bit weights, which change the results; see docs/guides/quantization.md.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of a step. Unset: chosen by the size of the model.",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of processes to split the model over, each with its own device.",
    )
    memory: ByteSize | None = Field(
        None,
        description="Limit of host memory, such as 16GiB. Unset: what is free.",
    )
    device_map: Literal["auto"] | None = Field(
        None,
        description="auto: spread the layers over all GPUs, if tensor_parallel cannot split them.",
    )
    adapters_dir: str | None = Field(
        None, description="Folder with one LoRA adapter per subfolder; see docs/guides/adapters.md."
    )
    adapter_mode: Literal["merge", "serve"] = Field(
        "merge",
        description="merge: add all to the weights; serve: apply each to requests that name it.",
    )
    max_rows: int = Field(32, ge=1, le=4096, description="Maximum number of sequences in one step.")
    kv_tokens: int | None = Field(
        None, ge=1, description="Tokens in the KV cache. Unset: what max_rows needs, or what fits."
    )
    block_size: int = Field(32, ge=1, le=1024, description="Tokens per block of the KV cache.")
    max_step_tokens: int = Field(
        512,
        ge=1,
        description="Maximum number of tokens in one step; longer prompts are computed in chunks.",
    )
    max_chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum number of prompt tokens in a step while other requests decode. Unset: "
        "32 on CPU, 512 on GPU.",
    )
    prompt_lookup: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Draft tokens per step for requests that set no number. Unset: none.",
    )
    lease_s: float = Field(
        10.0,
        ge=0.5,
        le=3600,
        description="Lifetime of a lease: a worker that does not renew it loses the job.",
    )
    grace_s: float = Field(
        30.0, ge=0, description="Time that a shutdown gives running jobs before it hands them back."
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="A job fails after this many of its workers died."
    )
    step_timeout_s: float = Field(
        120.0, gt=0, description="An engine step that takes longer is stuck: the worker exits."
    )
    metrics_host: str = Field("127.0.0.1", description="Address for probes and metrics.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /livez, /readyz and /metrics; 0 picks a free one. Unset: none.",
    )
    worker_id: str | None = Field(
        None, pattern=WORD, description="Name of this worker. Unset: made from the host's name."
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console or json.")
