"""Loads a network whole, in parts or spread out, as the options have it."""

from worker.engine.loading.device_map import load_spread
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import LoadedRunner, load_runner
from worker.engine.tensor_parallel.loading import load_parallel


def load_network(options: LoadOptions) -> LoadedRunner:
    """Raises CheckpointError, ValueError, or RuntimeError from a process that loads a part."""
    if options.tensor_parallel > 1 and options.device_map is not None:
        raise ValueError("tensor_parallel and device_map both divide the model: give one of them")
    if options.tensor_parallel > 1:
        return load_parallel(options)
    return load_runner(options) if options.device_map is None else load_spread(options)
