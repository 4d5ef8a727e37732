"""Distinguish a request that fails from a model that fails on every request.

After a sticky device error every forward pass raises. An engine that kept running would fail every
request in the batch, and then all jobs that its worker claims.
"""

from collections.abc import Callable
from traceback import clear_frames

import torch

from worker.engine.request import Request
from worker.engine.sampling.logits_processors.base import LogitsPipeline
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence import Sequence

PROBE = Request(request_id="probe", prompt_token_ids=[0], params=SamplingParams(max_new_tokens=1))


class EngineBroken(Exception):
    """The model fails on every request; its process must exit."""


def probe_model(compute: Callable[[StepPlan], object], block_manager: BlockManager) -> None:
    """Run one token through `compute`. Raises EngineBroken if even that fails.

    Needs a free block. Out of memory proves nothing: another process may hold it for a while.
    """
    probe = Sequence.of(PROBE, index=0, arrival=0, pipeline=LogitsPipeline())
    block_manager.allocate(probe)
    try:
        compute(StepPlan((Chunk(SequenceGroup([probe]), probe, 0, probe.num_tokens),)))
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except Exception as error:
        raise EngineBroken("the model fails on every request") from error
    finally:
        block_manager.free(probe)


def message_of(error: Exception) -> str:
    """Return what the client of a request gets to know of the error that it causes."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)  # CUDA's are pages long
    return f"the model failed on this request: {reason}"


def release_tensors(error: BaseException) -> None:
    """Clear the frames of an error's traceback: their tensors take the memory of the next try.

    After a GPU runs out of memory, also return torch's cached blocks to the device: their sizes fit
    the failed step and may be useless for a smaller one.
    """
    cause: BaseException | None = error
    while cause is not None:
        clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()  # does nothing in a process that has no GPU in use
