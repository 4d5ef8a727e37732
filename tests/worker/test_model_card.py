"""What a worker's model card says of the adapters in its weights."""

from pathlib import Path

import msgspec
import pytest

from shared.registry import hash_card
from shared.settings import load_settings
from tests.worker.lora import write_adapter
from worker.merged_adapters import describe_merged
from worker.model.adapter_folders import AdapterFolder
from worker.model.tiny import bundled_checkpoint
from worker.model_loading import LoadedModel, load_model
from worker.settings import WorkerSettings


def make_folder(directory: Path, weights: str = "weights", alpha: int = 8) -> AdapterFolder:
    """Files that only look like an adapter's."""
    folder = directory / "verse"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
    (folder / "adapter_model.safetensors").write_text(weights)
    return AdapterFolder(folder)


def test_an_adapter_is_the_same_wherever_it_lies_and_whatever_lies_beside_it(
    tmp_path: Path,
) -> None:
    here, there = make_folder(tmp_path / "here"), make_folder(tmp_path / "there")
    (there.path / "README.md").write_text("of no weight")
    assert describe_merged([here]) == describe_merged([there])


def test_other_weights_or_another_scale_are_another_adapter(tmp_path: Path) -> None:
    folders = [
        make_folder(tmp_path / "a"),
        make_folder(tmp_path / "b", weights="others"),
        make_folder(tmp_path / "c", alpha=16),
    ]
    told = describe_merged(folders)
    assert {adapter.name for adapter in told} == {"verse"}
    assert len({adapter.digest for adapter in told}) == 3


def load(adapters_dir: Path | None, mode: str = "merge") -> LoadedModel:
    flags = {"device": "cpu", "executor": "torch", "adapter_mode": mode}
    if adapters_dir is not None:
        flags["adapters_dir"] = str(adapters_dir)
    return load_model(load_settings(WorkerSettings, flags))


def test_workers_with_other_weights_by_their_adapters_have_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "verse", bundled_checkpoint())
    alone, merged = load(None), load(tmp_path)
    monkeypatch.setenv("verse", "0.5")
    weaker = load(tmp_path)
    hashes = {hash_card(model.card, model.tokenizer_json) for model in (alone, merged, weaker)}
    assert len(hashes) == 3
    assert alone.card.merged_adapters is msgspec.UNSET
    assert [adapter.strength for adapter in weaker.card.merged_adapters or ()] == [0.5]


def test_served_adapters_are_not_said_to_be_merged(tmp_path: Path) -> None:
    write_adapter(tmp_path / "verse", bundled_checkpoint())
    card = load(tmp_path, "serve").card
    assert (card.adapters, card.merged_adapters) == (("verse",), msgspec.UNSET)
