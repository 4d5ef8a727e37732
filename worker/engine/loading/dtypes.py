"""Which dtypes a network may be loaded in, the best first, each with the reason for it."""

import torch

from worker.engine.loading.compatibility import multiplies_bfloat16
from worker.model.checkpoint.weights import LoadingPlan
from worker.model.config import DTYPES

AUTO_DTYPE = "auto"
CPU_DTYPES = (torch.float32, torch.bfloat16)  # that `auto` may choose


def wanted_dtypes(
    name: str | None, plan: LoadingPlan, device: torch.device
) -> dict[torch.dtype, str]:
    """Return the dtypes that `name` allows for a checkpoint, with reasons; see LoadOptions."""
    if name is None or (name == AUTO_DTYPE and device.type != "cpu"):
        return {plan.dtype: "it is the checkpoint's dtype"}
    if name != AUTO_DTYPE:
        return {parse_dtype(name): "the setting dtype asks for it"}
    if plan.dtype == torch.bfloat16 and not plan.model.config.is_small and multiplies_bfloat16():
        return {
            torch.bfloat16: "it is the checkpoint's dtype, and this CPU multiplies it",
            torch.float32: "bfloat16 is not supported with these settings",
        }
    return {
        torch.float32: _reason_for_float32(plan),
        torch.bfloat16: "float32 does not fit in memory",
    }


def _reason_for_float32(plan: LoadingPlan) -> str:
    if plan.dtype == torch.float32:
        return "it is the checkpoint's dtype"
    if plan.dtype == torch.bfloat16 and multiplies_bfloat16():
        return "a model this small is not faster in bfloat16"
    # float16: about six times slower.
    return f"this CPU does not multiply {str(plan.dtype).removeprefix('torch.')} natively"


def parse_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {name}")
    return DTYPES[name]
