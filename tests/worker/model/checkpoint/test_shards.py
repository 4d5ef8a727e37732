"""The weights files of a checkpoint: formats, indexes, truncation, and code in pickles."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.shards import open_shard
from worker.model.checkpoint.weights import EMBEDDINGS, load_model
from worker.model.errors import CheckpointError
from worker.model.falcon import FalconForCausalLM


def load(path: Path) -> FalconForCausalLM:
    return load_model(str(path), device=torch.device("cpu"))


class Payload:
    """Code that a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (Payload(), "holds more than tensors, and unpickling that may run code"),
        ({"payload": 1}, "must hold tensors alone, but 'payload' is not a tensor"),
        (torch.zeros(1), "holds no state dict"),
    ],
)
def test_pickled_code_is_never_run(
    folder: Path, weights: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights, protocol=2))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        load(folder)
    assert not Path("harm").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load(folder)


@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_truncated_torch_file_is_refused(is_zipped: bool, tmp_path: Path) -> None:
    """Its readers raise errors of many kinds, struct.error among them."""
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(20)}, file, _use_new_zipfile_serialization=is_zipped)
    whole = file.read_bytes()
    for length in range(0, len(whole), 5):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read"), open_shard(file) as shard:
            shard.names()


def test_a_shard_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, max_shard_size="100KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"lacks weight files its index names: {lost.name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["{}", "[", *(f'{{"weight_map": {names}}}' for names in ("{}", '{"a": 3}', '{"a": ["b"]}'))],
)
def test_a_broken_index_is_refused(folder: Path, index: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        load(folder)


def test_an_index_cannot_point_outside_its_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {EMBEDDINGS: "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks weight files"):
        load(folder)


def test_a_whole_weights_file_takes_precedence_over_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "lost"}}')
    assert load(folder).config.style == "7b"
