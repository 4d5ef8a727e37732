"""Networks with layers on several devices: placement and results."""

from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
import torch

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.loading.fake_devices import fake_devices
from tests.worker.engine.workload import ScheduledRequest, run_all
from tests.worker.peft_adapters import write_adapter
from worker.engine import (
    AdapterMode,
    Engine,
    EngineConfig,
    Executor,
    Quantization,
    SamplingParams,
)
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.loading.several_devices import spread
from worker.model.checkpoint.random_checkpoint import config_fields, write_random_checkpoint
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap

CONFIG = EngineConfig(max_rows=8, num_blocks=24, block_size=4, max_step_tokens=24)
CPU = torch.device("cpu")
NUM_GPUS = torch.cuda.device_count()
GIB = 2**30
FULL_ROWS = 32 * 2048 // 32  # blocks that 32 rows of full length need


def map_over(*devices: torch.device) -> DeviceMap:
    """Map four layers: the last to the last device, the second and third to the second."""
    return DeviceMap(devices[0], {range(1, 3): devices[1], range(3, 4): devices[-1]})


@pytest.fixture(scope="module", params=STYLES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each style, and a folder of two adapters."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    path = write_random_checkpoint(folder / "model", like=request.param, num_layers=4)
    write_adapter(folder / "adapters" / "verse", path, seed=1)
    write_adapter(folder / "adapters" / "tales", path, seed=2, r=2, target_modules=["dense"])
    return folder


def load(folder: Path, device_map: DeviceMap | Literal["auto"] | None, **options: Any) -> Engine:
    defaults = {
        "dtype": "float32",
        "executor": Executor.TORCH,
        "adapters_dir": str(folder / "adapters"),
        "adapter_mode": AdapterMode.SERVE,
        "config": CONFIG,
    }
    return Engine.from_pretrained(
        str(folder / "model"), device_map=device_map, **(defaults | options)
    )


def mixed_requests(names: tuple[str | None, ...]) -> list[ScheduledRequest]:
    """Requests with a common prefix, in chunks: greedy with drafts, sampled, and beams."""
    draw = Random(0)
    modes = (
        SamplingParams(max_new_tokens=8, prompt_lookup_num_tokens=3),
        SamplingParams(max_new_tokens=8, do_sample=True, seed=1, num_return_sequences=2),
        SamplingParams(max_new_tokens=6, num_beams=3),
    )
    return [
        ScheduledRequest(
            (7, 8, 9, 10, 11, 12, *(draw.randrange(20, 200) for _ in range(draw.randint(1, 30)))),
            modes[i % 3],
            arrives=i // 2,
            adapter=names[i // 3 % len(names)],
        )
        for i in range(9)
    ]


def generate_all(engine: Engine) -> list[list[list[int]]]:
    results = run_all(engine, mixed_requests((None, *engine.adapters)))
    assert all(result.failure is None for result in results)
    assert engine.num_preemptions > 0
    assert engine.num_prefix_hit_tokens > 0
    return [
        [result.token_ids(sequence) for sequence in sorted(result.outputs)] for result in results
    ]


def devices_of(engine: Engine) -> list[torch.device]:
    """Return the device of each cache; assert that it is the device of its layers."""
    runner = engine.runner
    assert isinstance(runner, ModelRunner)
    caches = runner.kv_caches
    per_layer = [kv.keys.device for kv in caches for _ in range(kv.num_layers)]
    assert per_layer == runner.model.layer_devices
    return [kv.keys.device for kv in caches]


@pytest.mark.parametrize("mode", AdapterMode)
def test_layers_on_three_devices_compute_what_one_device_computes(
    folder: Path, mode: AdapterMode
) -> None:
    """Each operation has all its tensors on one device, or the fake devices raise."""
    expected = generate_all(load(folder, None, adapter_mode=mode))
    with fake_devices() as fakes:
        devices = [CPU, torch.device("meta:0"), torch.device("meta:1")]
        engine = load(folder, map_over(*devices), adapter_mode=mode)
        assert devices_of(engine) == devices
        before = fakes.num_crossings
        assert generate_all(engine) == expected
    assert fakes.num_crossings > before


@pytest.mark.gpu
@pytest.mark.skipif(NUM_GPUS < 1, reason="needs a CUDA device")
@pytest.mark.parametrize("main", ["cuda:0", "cpu"])
def test_layers_on_a_gpu_and_the_cpu_compute_what_the_cpu_computes(folder: Path, main: str) -> None:
    devices = [torch.device(main), torch.device("cpu" if main == "cuda:0" else "cuda:0")]
    engine = load(folder, map_over(*devices))
    assert devices_of(engine) == devices
    assert generate_all(engine) == generate_all(load(folder, None))


@pytest.mark.gpu
@pytest.mark.skipif(NUM_GPUS < 2, reason="needs two CUDA devices")
def test_layers_on_two_gpus_compute_what_the_cpu_computes(folder: Path) -> None:
    devices = [torch.device("cuda:0"), torch.device("cuda:1")]
    engine = load(folder, map_over(*devices))
    assert devices_of(engine) == devices
    assert generate_all(engine) == generate_all(load(folder, None))


@pytest.mark.gpu
@pytest.mark.skipif(NUM_GPUS < 1, reason="needs a CUDA device")
def test_auto_keeps_a_small_model_on_one_gpu(folder: Path) -> None:
    engine = load(folder, "auto", device="cuda")
    assert devices_of(engine) == [torch.device("cuda:0")]
    assert generate_all(engine) == generate_all(load(folder, None))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_map": "auto"}, "with --device-map auto, --device must be cuda, not cpu"),
        ({"device_map": "auto", "device": "cuda:0"}, "--device must be cuda, not cuda:0"),
        ({"device_map": "auto", "tensor_parallel": 2}, "must not be given together"),
        ({"device_map": "auto", "executor": Executor.OPENVINO}, "--executor must be torch"),
        (
            {"device_map": "auto", "quantization": Quantization.INT8_WEIGHT_ONLY},
            "--quantization unset",
        ),
        ({"device_map": DeviceMap(CPU)}, "num_blocks must be set"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_anything_is_read(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        Engine.from_pretrained(str(tmp_path), **options)


def published(like: str) -> ModelConfig:
    return ModelConfig.from_dict(config_fields(like, full_size=True))


def place(like: str, *gibs: int, config: EngineConfig | None = None) -> tuple[list[int], int]:
    """Return the number of layers on each GPU, and the number of blocks."""
    device_map, num_blocks = spread(
        published(like),
        config or EngineConfig(),
        dtype=torch.bfloat16,
        free_bytes=[gib * GIB for gib in gibs],
    )
    assert device_map.main == torch.device("cuda:0")
    layers = [device_map.of_layer(layer).index for layer in range(published(like).num_layers)]
    assert layers == sorted(layers), "a later layer is on an earlier GPU"
    return [layers.count(gpu) for gpu in range(len(gibs))], num_blocks


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("like", "gibs", "layers"),
    [
        ("7b", [80], [32]),  # 14 GB of weights
        ("7b", [24, 24], [32, 0]),
        ("7b", [8, 10], [14, 18]),
        ("40b", [80, 80], [54, 6]),  # 83 GB
        ("40b", [24, 24, 24, 24], [14, 16, 16, 14]),
        ("rw", [80], [24]),
    ],
)
def test_gpus_are_filled_in_their_order(like: str, gibs: list[int], layers: list[int]) -> None:
    assert place(like, *gibs) == (layers, FULL_ROWS)


@pytest.mark.parametrize(("like", "gibs"), [("40b", [80]), ("40b", [44, 42]), ("7b", [8, 8])])
def test_each_gpu_holds_its_layers_with_their_share_of_the_kv_cache(
    like: str, gibs: list[int]
) -> None:
    """The number of blocks is the largest that leaves a GiB for activations."""
    many = EngineConfig(max_rows=10**4, max_step_tokens=10**4)
    layers, num_blocks = place(like, *gibs, config=many)
    model = published(like)
    per_token = model.kv_bytes_per_token(torch.bfloat16) // model.num_layers
    embeddings = 2 * (model.vocab_size + 2) * model.hidden_size
    weights = (2 * model.num_parameters - embeddings) // model.num_layers
    free = [(gib - 1) * GIB for gib in gibs]
    free[0] -= embeddings

    def fits(blocks: int) -> bool:
        size = weights + int(per_token * 32 / 0.85) * blocks
        first, *others = (gpu // size for gpu in free)
        # If not all layers fit there, accelerate keeps room for one more on the first GPU.
        return first >= model.num_layers or first - 1 + sum(others) >= model.num_layers

    assert sum(layers) == model.num_layers
    assert fits(num_blocks)
    assert not fits(num_blocks + 1)


def test_a_given_number_of_blocks_is_used() -> None:
    assert place("7b", 24, 24, config=EngineConfig(num_blocks=7)) == ([32, 0], 7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("like", "gibs", "missing"),
    [
        ("40b", [24, 24], "32.9"),
        ("7b", [1, 8], "6.0"),
        ("7b", [1], "12.9"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_the_missing_bytes(
    like: str, gibs: list[int], missing: str
) -> None:
    words = rf"do not fit on {len(gibs)} GPU\(s\): {missing} GiB are missing"
    with pytest.raises(ValueError, match=words):
        place(like, *gibs)


def test_a_device_map_names_the_device_of_every_parameter() -> None:
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    device_map = DeviceMap(first, {range(1, 12): second})
    for name, device in (
        ("transformer.word_embeddings.weight", first),
        ("transformer.h.0.mlp.dense_h_to_4h.weight", first),
        ("transformer.h.1.mlp.dense_h_to_4h.weight", second),
        ("transformer.h.11.input_layernorm.bias", second),
        ("transformer.ln_f.weight", first),
        ("lm_head.weight", first),
    ):
        assert device_map.of_parameter(name) == device
