"""Loading: from a checkpoint to a runner on one device, on several, or in several processes.

Other packages call `load_network`, and import `options` (LoadOptions), `report` (LoadReport),
`adapters` (AdapterMode), `calibration` (known_limits), `compatibility` (check_combination),
`dtypes` (parse_dtype), `load_plan` (choose_variant), `single_device` (parse_kind) and `step_limits`
(lower_to_blocks).
"""

from worker.engine.loading.options import LoadOptions
from worker.engine.loading.several_devices import load_spread
from worker.engine.loading.several_processes import load_parallel
from worker.engine.loading.single_device import LoadedRunner, load_runner


def load_network(options: LoadOptions) -> LoadedRunner:
    """Load a network as the options say.

    Raises CheckpointError, ValueError, or RuntimeError if another process fails to load its part.
    """
    if options.tensor_parallel > 1 and options.device_map is not None:
        raise ValueError(
            "tensor_parallel and device_map must not be given together: both divide the model"
        )
    if options.tensor_parallel > 1:
        return load_parallel(options)
    return load_runner(options) if options.device_map is None else load_spread(options)
