"""The load of the machine, in the form of KAITO's `/metrics`. The api has no GPU."""

import msgspec
import psutil

GIB = 1024**3


class Memory(msgspec.Struct, frozen=True):
    used: str
    total: str


class CpuInfo(msgspec.Struct, frozen=True):
    load_percentage: float
    physical_cores: int
    total_cores: int
    memory: Memory


class GpuInfo(msgspec.Struct, frozen=True):
    id: str
    name: str
    load: str
    temperature: str
    memory: Memory


class SystemInfo(msgspec.Struct, frozen=True):
    gpu_info: list[GpuInfo] | None
    cpu_info: CpuInfo | None


def system_info() -> SystemInfo:
    """Return the load since the last call; as in KAITO, "GB" are 2^30 bytes."""
    memory = psutil.virtual_memory()
    total_cores = psutil.cpu_count(logical=True) or 1
    return SystemInfo(
        gpu_info=None,
        cpu_info=CpuInfo(
            load_percentage=psutil.cpu_percent(interval=None),
            physical_cores=psutil.cpu_count(logical=False) or total_cores,
            total_cores=total_cores,
            memory=Memory(f"{memory.used / GIB:.2f} GB", f"{memory.total / GIB:.2f} GB"),
        ),
    )
