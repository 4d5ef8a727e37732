"""Loads a network whole, in parts or spread out, as the options have it."""

from worker.engine.load_options import LoadOptions
from worker.engine.loading import LoadedRunner, load_runner
from worker.engine.parallel_loading import load_parallel
from worker.engine.spread_loading import load_spread


def load_network(options: LoadOptions) -> LoadedRunner:
    """Raises CheckpointError, ValueError, or RuntimeError from a process that loads a part."""
    if options.tensor_parallel > 1 and options.device_map is not None:
        raise ValueError("tensor_parallel and device_map both divide the model: give one of them")
    if options.tensor_parallel > 1:
        return load_parallel(options)
    return load_runner(options) if options.device_map is None else load_spread(options)
