"""The report of loading an engine: seconds of each phase, and the use of memory."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from worker.engine.config import EngineConfig
from worker.engine.memory.host_forecast import HostForecast
from worker.engine.memory.kv_cache_size import MemoryPlan
from worker.engine.step_report import timed
from worker.model.config import ModelConfig


class LoadPhase(StrEnum):
    RESOLVE = "resolve"  # find the folder, or download it
    HEADERS = "headers"  # config.json and the headers of the weights
    WEIGHTS = "weights"  # read, convert and move to the device
    PREPARE = "prepare"  # pack or quantize weights, compile
    CALIBRATION = "calibration"  # measure steps, to choose the limits that are open
    KV_CACHE = "kv_cache"
    WARM_UP = "warm_up"  # first steps: libraries load kernels and allocate


@dataclass(frozen=True, slots=True)
class LimitChoice:
    """The limits that an engine runs with."""

    config: EngineConfig
    reason: str  # what set them, with the times they were chosen by

    def to_log(self) -> dict[str, int | float | str]:
        names = ("max_rows", "max_step_tokens", "max_chunk_tokens")
        return {name: getattr(self.config, name) for name in names} | {"limits": self.reason}


@dataclass(slots=True)
class LoadReport:
    """How the network was loaded; empty for an engine that was given its runner."""

    seconds: dict[LoadPhase, float] = field(default_factory=lambda: dict.fromkeys(LoadPhase, 0.0))
    read_bytes: int = 0  # of weights, in files
    weight_bytes: int = 0  # as loaded
    forecast: HostForecast | None = None
    memory: MemoryPlan | None = None
    limits: LimitChoice | None = None
    num_threads: int | None = None  # of a step on a CPU

    def timed(self, phase: LoadPhase) -> AbstractContextManager[None]:
        return timed(self.seconds, phase)

    def record_memory(
        self,
        model_config: ModelConfig,
        config: EngineConfig,
        dtype: torch.dtype,
        *,
        num_blocks: int,
        num_parts: int = 1,
    ) -> None:
        """Record the use of memory, once weights and KV cache are allocated."""
        self.memory = MemoryPlan.of(
            model_config,
            config,
            dtype,
            weight_bytes=self.weight_bytes,
            num_blocks=num_blocks,
            num_parts=num_parts,
        )

    def to_log(self) -> dict[str, int | float | str]:
        """Return the figures as fields of one log line; GB are 10⁹ bytes."""
        fields: dict[str, int | float | str] = {
            f"{phase}_s": round(seconds, 3) for phase, seconds in self.seconds.items()
        }
        if self.read_bytes:
            gigabytes = self.read_bytes / 1e9
            fields["read_gb"] = round(gigabytes, 3)
            if self.forecast is None or self.forecast.variant.quantization is None:
                # Other weights are quantized while they are read, in a later phase.
                fields["read_gb_per_s"] = round(gigabytes / self.seconds[LoadPhase.WEIGHTS], 3)
        if self.forecast:
            fields |= {
                "variant": str(self.forecast.variant),
                "dtype_reason": self.forecast.reason,
                "forecast_bytes": self.forecast.needed_bytes,
            }
        if self.limits:
            fields |= self.limits.to_log()
        if self.num_threads:
            fields["threads"] = self.num_threads
        if self.memory:
            fields |= {
                "weight_bytes": self.weight_bytes,
                "kv_bytes": self.memory.kv_bytes,
                "kv_blocks": self.memory.num_blocks,
                "kv_tokens": self.memory.kv_tokens,
            }
        return fields
