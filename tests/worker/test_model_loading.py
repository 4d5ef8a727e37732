"""Loading the model that the settings name."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import SettingsError
from shared.process.settings import load_settings
from worker.engine import AttentionKernels, DecoderLayers, SamplingParams, generate
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.shards import ReadProgress
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.falcon import FalconForCausalLM
from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.cuda_attention import Attention, plan_attention
from worker.model_loading import load_model, settle_garbage_collector
from worker.settings import WorkerSettings


@pytest.mark.parametrize(("flags", "expected"), [({}, None), ({"prompt_lookup": 7}, 7)])
def test_prompt_lookup_is_off_by_default(flags: dict[str, Any], expected: int | None) -> None:
    settings = load_settings(WorkerSettings, {"device": "cpu", "executor": "torch", **flags})
    assert load_model(settings).engine.config.prompt_lookup_num_tokens == expected


@pytest.fixture
def restored_collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("restored_collector")
def test_the_objects_of_a_large_step_start_no_garbage_collection() -> None:
    settle_garbage_collector()
    before = [stats["collections"] for stats in gc.get_stats()]
    step = [[row] for row in range(4 * 256)]
    assert [stats["collections"] for stats in gc.get_stats()] == before
    assert len(step) == 4 * 256


@pytest.mark.parametrize("flags", [{}, {"executor": "torch"}, {"quantization": "int8"}])
def test_loading_counts_the_bytes_of_all_weights(flags: dict[str, Any]) -> None:
    progress = ReadProgress()
    load_model(load_settings(WorkerSettings, {"max_rows": 2, **flags}), progress)
    assert 0 < progress.total <= progress.num_bytes <= 2 * progress.total


def test_the_settings_choose_layers_and_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, fused = [], []

    def plan(kv_cache: KVCache, metadata: AttentionMetadata, *rest: Any) -> Attention:
        planned.append(metadata.kernels)
        return plan_attention(kv_cache, metadata, *rest)

    def fuse(model: FalconForCausalLM, layers: DecoderLayers) -> None:
        fused.append(layers)

    monkeypatch.setattr("worker.model.falcon.plan_attention", plan)
    monkeypatch.setattr("worker.engine.loading.single_device.fuse_layers", fuse)
    flags = {"device": "cpu", "executor": "torch", "attention": "varlen", "layers": "separate"}
    engine = load_model(load_settings(WorkerSettings, flags)).engine
    assert len(next(iter(generate(engine, ["The sun"], SamplingParams(max_new_tokens=3))))) == 1
    assert len(planned) > 3
    assert set(planned) == {AttentionKernels.VARLEN}
    assert fused == [DecoderLayers.SEPARATE]


def test_adapter_mode_serve_needs_a_folder() -> None:
    settings = load_settings(WorkerSettings, {"adapter_mode": "serve"})
    with pytest.raises(SettingsError, match="--adapters-dir"):
        load_model(settings)


def test_a_package_that_cannot_be_imported_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For example, an old peft is installed next to a new torch."""
    (tmp_path / "verse").mkdir()
    (tmp_path / "verse" / "adapter_config.json").write_text("{}")
    (tmp_path / "verse" / "adapter_model.safetensors").touch()
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("worker.engine.loading.adapters.check_peft", lambda: None)
    flags = {"device": "cpu", "executor": "torch", "adapters_dir": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"model 'tiny' on cpu: .*peft"):
        load_model(load_settings(WorkerSettings, flags))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "--device must be cuda"),
        ({"tensor_parallel": 2}, "must not be given together"),
    ],
)
def test_device_map_needs_gpus_and_excludes_tensor_parallel(
    flags: dict[str, Any], words: str
) -> None:
    settings = load_settings(WorkerSettings, {"device": "cpu", "device_map": "auto", **flags})
    with pytest.raises(SettingsError, match=rf"model 'tiny' on cpu: .*{words}"):
        load_model(settings)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("chat_template.jinja", "a\n{% if %}", r"chat_template\.jinja, line 2: .*parsed: Expected"),
        (
            "tokenizer_config.json",
            '{"chat_template": "{% for m in messages %}"}',
            r"tokenizer_config\.json: chat_template, line 1: .*parsed",
        ),
    ],
)
def test_a_broken_chat_template_is_reported_with_file_and_line(
    tmp_path: Path, file: str, content: str, words: str
) -> None:
    """The check precedes loading: this checkpoint has no weights."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(bundled_checkpoint() / name)
    (tmp_path / file).write_text(content)
    flags = {"device": "cpu", "executor": "torch", "model": str(tmp_path)}
    with pytest.raises(SettingsError, match=words) as caught:
        load_model(load_settings(WorkerSettings, flags))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_model_that_does_not_fit_is_refused_before_loading(
    num_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        pytest.fail("the model was loaded")

    for place in ("loading.single_device.load_weights", "loading.several_processes.RankProcesses"):
        monkeypatch.setattr(f"worker.engine.{place}", never)
    model = write_random_checkpoint(tmp_path, like="40b")
    flags = {"device": "cpu", "model": str(model), "memory": "1MiB", "tensor_parallel": num_parts}
    with pytest.raises(SettingsError, match=r"it needs .*, but 0 B are left by the set"):
        load_model(load_settings(WorkerSettings, flags))
