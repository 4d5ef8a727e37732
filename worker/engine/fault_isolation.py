"""Tells a broken request from a broken model: runs a request that cannot be to blame.

After a sticky device error every forward pass raises. Whoever is in the batch would be blamed in
turn, and an engine that lived on would fail all that its worker claims.
"""

from collections.abc import Callable
from traceback import clear_frames

import torch

from worker.engine.request import Request
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence import Sequence
from worker.engine.sequence_group import SequenceGroup

PROBE = Request(request_id="probe", prompt_token_ids=[0], params=SamplingParams(max_new_tokens=1))


class EngineBroken(Exception):
    """The model computes nothing more, for nobody; its process must end."""


def probe_model(compute: Callable[[StepPlan], object], block_manager: BlockManager) -> None:
    """Run one token through `compute`; raises EngineBroken when even that fails.

    Needs a free block. Out of memory is no proof: another process may have taken it for a while.
    """
    probe = Sequence.of(PROBE, index=0, arrival=0)
    block_manager.allocate(probe)
    try:
        compute(StepPlan((Chunk(SequenceGroup([probe]), probe, 0, probe.num_tokens),)))
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except Exception as error:
        raise EngineBroken("the model fails on every request") from error
    finally:
        block_manager.free(probe)


def let_go_of_tensors(error: BaseException) -> None:
    """Empty the frames that a failure came through: what they hold leaves the next try no room.

    After an out-of-memory on a GPU, what torch keeps of freed memory goes back to the device, too:
    in pieces cut for the failed step it may be of no use to a smaller one.
    """
    cause: BaseException | None = error
    while cause is not None:
        clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()  # does nothing in a process that has no GPU in use
