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
        description="Of weights and KV cache; auto: on CPU float32, or bfloat16 where only that "
        "fits, on GPU the checkpoint's.",
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda, cuda:N or auto."
    )
    executor: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="What computes: torch, openvino (CPU, float32) or auto, the fastest that can "
        "and fits.",
    )
    quantization: Literal["int8", "int8-weight-only", "fp8"] | None = Field(
        None, description="8-bit weights, with other results; see docs/guides/quantization.md."
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of a step; not given: as the model's size asks.",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="Split the model over this many processes, each with a device of its own.",
    )
    memory: ByteSize | None = Field(
        None,
        description="Most host memory to take, as in 16GiB; not given: what is free.",
    )
    device_map: Literal["auto"] | None = Field(
        None,
        description="auto: put the layers on all GPUs, where tensor_parallel cannot split them.",
    )
    adapters_dir: str | None = Field(
        None, description="Folder with LoRA adapters, a folder each; see docs/guides/adapters.md."
    )
    adapter_mode: Literal["merge", "serve"] = Field(
        "merge",
        description="merge: all into the weights; serve: each to the requests that name it.",
    )
    max_rows: int = Field(32, ge=1, le=4096, description="Most sequences in one step.")
    kv_tokens: int | None = Field(
        None, ge=1, description="Size of the KV cache; not given: what the rows need, or what fits."
    )
    block_size: int = Field(32, ge=1, le=1024, description="Tokens per block of the KV cache.")
    max_step_tokens: int = Field(
        512, ge=1, description="Most tokens one step computes; longer prompts come in chunks."
    )
    max_chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="Most of them for one prompt while others decode; not given: 32 on CPU, 512.",
    )
    prompt_lookup: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Tokens guessed per step where a request does not say; not given: none.",
    )
    lease_s: float = Field(
        10.0, ge=0.5, le=3600, description="A worker that is silent this long loses its jobs."
    )
    grace_s: float = Field(
        30.0, ge=0, description="What a stop gives running jobs before they are handed back."
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="A job whose worker died this often is given up."
    )
    step_timeout_s: float = Field(
        120.0, gt=0, description="An engine step longer than this is stuck: the worker exits."
    )
    metrics_host: str = Field("127.0.0.1", description="Address for probes and metrics.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /livez, /readyz and /metrics; 0 takes a free one, not given: none.",
    )
    worker_id: str | None = Field(
        None, pattern=WORD, description="Name of this worker; not given: made from the host's."
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console or json.")
