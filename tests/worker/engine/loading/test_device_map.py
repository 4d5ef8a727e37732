"""A network whose layers lie on several devices says what it says on one."""

from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
import torch

from tests.worker.engine.company import Guest, play
from tests.worker.engine.conftest import STYLES
from tests.worker.engine.loading.pretended import pretended_devices
from tests.worker.lora import write_adapter
from worker.engine import (
    AdapterMode,
    Engine,
    EngineConfig,
    Executor,
    Quantization,
    SamplingParams,
)
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.device_map import DeviceMap

CONFIG = EngineConfig(max_rows=8, num_blocks=24, block_size=4, max_step_tokens=24)
CPU = torch.device("cpu")
NUM_GPUS = torch.cuda.device_count()


def spread_over(*devices: torch.device) -> DeviceMap:
    """Of four layers: the last on the last device, the second and third on the second."""
    return DeviceMap(devices[0], {range(1, 3): devices[1], range(3, 4): devices[-1]})


@pytest.fixture(scope="module", params=STYLES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each style, beside a folder of two adapters."""
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


def everybody(names: tuple[str | None, ...]) -> list[Guest]:
    """Prompts that begin alike and come in chunks; greedy with drafts, drawn, and beams."""
    draw = Random(0)
    manners = (
        SamplingParams(max_new_tokens=8, prompt_lookup_num_tokens=3),
        SamplingParams(max_new_tokens=8, do_sample=True, seed=1, num_return_sequences=2),
        SamplingParams(max_new_tokens=6, num_beams=3),
    )
    return [
        Guest(
            (7, 8, 9, 10, 11, 12, *(draw.randrange(20, 200) for _ in range(draw.randint(1, 30)))),
            manners[i % 3],
            arrives=i // 2,
            adapter=names[i // 3 % len(names)],
        )
        for i in range(9)
    ]


def told(engine: Engine) -> list[list[list[int]]]:
    results = play(engine, everybody((None, *engine.adapters)))
    assert all(result.failure is None for result in results)
    assert engine.num_preemptions > 0
    assert engine.num_prefix_hit_tokens > 0
    return [
        [result.token_ids(sequence) for sequence in sorted(result.outputs)] for result in results
    ]


def devices_of(engine: Engine) -> list[torch.device]:
    """Where each cache lies, checked against the layers that it belongs to."""
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    caches = runner.kv_caches
    per_layer = [kv.keys.device for kv in caches for _ in range(kv.num_layers)]
    assert per_layer == runner._model.layer_devices
    return [kv.keys.device for kv in caches]


@pytest.mark.parametrize("mode", AdapterMode)
def test_layers_on_three_devices_say_what_they_say_on_one(folder: Path, mode: AdapterMode) -> None:
    """Each operation finds all its tensors on one device, or the pretended ones fail it."""
    expected = told(load(folder, None, adapter_mode=mode))
    with pretended_devices() as pretended:
        devices = [CPU, torch.device("meta:0"), torch.device("meta:1")]
        engine = load(folder, spread_over(*devices), adapter_mode=mode)
        assert devices_of(engine) == devices
        before = pretended.num_crossings
        assert told(engine) == expected
    assert pretended.num_crossings > before


@pytest.mark.gpu
@pytest.mark.skipif(NUM_GPUS < 1, reason="needs a CUDA device")
@pytest.mark.parametrize("main", ["cuda:0", "cpu"])
def test_layers_on_a_gpu_and_the_cpu_say_what_they_say_on_the_cpu(folder: Path, main: str) -> None:
    devices = [torch.device(main), torch.device("cpu" if main == "cuda:0" else "cuda:0")]
    engine = load(folder, spread_over(*devices))
    assert devices_of(engine) == devices
    assert told(engine) == told(load(folder, None))


@pytest.mark.gpu
@pytest.mark.skipif(NUM_GPUS < 2, reason="needs two CUDA devices")
def test_layers_on_two_gpus_say_what_they_say_on_the_cpu(folder: Path) -> None:
    devices = [torch.device("cuda:0"), torch.device("cuda:1")]
    engine = load(folder, spread_over(*devices))
    assert devices_of(engine) == devices
    assert told(engine) == told(load(folder, None))


@pytest.mark.gpu
@pytest.mark.skipif(NUM_GPUS < 1, reason="needs a CUDA device")
def test_auto_puts_what_fits_on_one_gpu_there(folder: Path) -> None:
    engine = load(folder, "auto", device="cuda")
    assert devices_of(engine) == [torch.device("cuda:0")]
    assert told(engine) == told(load(folder, None))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_map": "auto"}, "device_map auto needs device cuda, all of them, not cpu"),
        ({"device_map": "auto", "device": "cuda:0"}, "all of them, not cuda:0"),
        ({"device_map": "auto", "tensor_parallel": 2}, "give one of them"),
        ({"device_map": "auto", "executor": Executor.OPENVINO}, "needs executor torch"),
        ({"device_map": "auto", "quantization": Quantization.INT8_WEIGHT_ONLY}, "not 8-bit ones"),
        ({"device_map": DeviceMap(CPU)}, "needs a number of KV blocks"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        Engine.from_pretrained(str(tmp_path), **options)
