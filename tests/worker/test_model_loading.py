"""What a worker's settings make of its engine."""

import sys
from pathlib import Path
from typing import Any

import pytest

from shared.errors import SettingsError
from shared.process.settings import load_settings
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model_loading import load_model
from worker.settings import WorkerSettings


@pytest.mark.parametrize(("flags", "expected"), [({}, None), ({"prompt_lookup": 7}, 7)])
def test_drafts_are_off_unless_the_worker_is_told(
    flags: dict[str, Any], expected: int | None
) -> None:
    settings = load_settings(WorkerSettings, {"device": "cpu", "executor": "torch", **flags})
    assert load_model(settings).engine.config.prompt_lookup_num_tokens == expected


def test_adapters_to_serve_want_a_folder() -> None:
    settings = load_settings(WorkerSettings, {"adapter_mode": "serve"})
    with pytest.raises(SettingsError, match="adapters_dir"):
        load_model(settings)


def test_a_package_that_does_not_fit_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As an old peft with a new torch: it is found, and cannot be imported."""
    (tmp_path / "verse").mkdir()
    (tmp_path / "verse" / "adapter_config.json").write_text("{}")
    (tmp_path / "verse" / "adapter_model.safetensors").touch()
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("worker.engine.loading.lora.check_peft", lambda: None)
    flags = {"device": "cpu", "executor": "torch", "adapters_dir": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"model 'tiny' on cpu: .*peft"):
        load_model(load_settings(WorkerSettings, flags))


@pytest.mark.parametrize(
    ("flags", "words"),
    [({}, "device_map auto needs device cuda"), ({"tensor_parallel": 2}, "give one of them")],
)
def test_layers_on_all_gpus_want_gpus_and_no_other_way_of_dividing(
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
def test_a_broken_chat_template_stops_the_start_with_file_and_line(
    tmp_path: Path, file: str, content: str, words: str
) -> None:
    """Before any weights are read: this checkpoint has none."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(bundled_checkpoint() / name)
    (tmp_path / file).write_text(content)
    flags = {"device": "cpu", "executor": "torch", "model": str(tmp_path)}
    with pytest.raises(SettingsError, match=words) as caught:
        load_model(load_settings(WorkerSettings, flags))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("num_parts", [1, 2])
def test_what_does_not_fit_is_refused_before_a_weight_is_read_or_a_process_started(
    num_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        pytest.fail("it went on to load the model")

    for place in ("loading.single_device.load_weights", "tensor_parallel.loading.Followers"):
        monkeypatch.setattr(f"worker.engine.{place}", never)
    model = write_random_checkpoint(tmp_path, like="40b")
    flags = {"device": "cpu", "model": str(model), "memory": "1MiB", "tensor_parallel": num_parts}
    with pytest.raises(SettingsError, match=r"it needs .*, but 0 B are left by the set"):
        load_model(load_settings(WorkerSettings, flags))
