import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.worker.model.oracle import load_oracle, oracle_logits
from tests.worker.model.packed import prefill
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import LoadingPlan, load_model, load_weights, plan_loading
from worker.model.device_map import DeviceMap
from worker.model.errors import CheckpointError
from worker.model.falcon import FalconForCausalLM
from worker.model.tensor_parallel import TensorParallel

EMBEDDINGS = "transformer.word_embeddings.weight"
DENSE = "transformer.h.0.self_attention.dense.weight"
PROMPT = list(range(20, 60))
CPU = DeviceMap(torch.device("cpu"))

Edit = Callable[[dict[str, torch.Tensor]], None]


def load(path: Path, dtype: torch.dtype | None = None) -> FalconForCausalLM:
    return load_model(str(path), dtype=dtype, device=torch.device("cpu"))


def edit_weights(folder: Path, edit: Edit) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_shards_load_like_one_file(
    checkpoint: Callable[[str], Path], tmp_path: Path, like: str
) -> None:
    write_random_checkpoint(tmp_path, like=like, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    sharded, whole = load(tmp_path).state_dict(), load(checkpoint(like)).state_dict()
    assert sharded.keys() == whole.keys()
    assert all(torch.equal(sharded[name], whole[name]) for name in whole)


def test_a_loaded_model_is_ready_for_inference(folder: Path) -> None:
    model = load(folder)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_dtype_is_that_of_config_json_unless_asked_otherwise(folder: Path) -> None:
    assert load(folder).lm_head.weight.dtype is torch.float32
    assert load(folder, torch.bfloat16).lm_head.weight.dtype is torch.bfloat16
    edit_config(folder, dtype="bfloat16")
    assert load(folder).lm_head.weight.dtype is torch.bfloat16


def test_without_a_stated_dtype_the_stored_one_counts(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, dtype=torch.float16)
    edit_config(tmp_path, dtype=None)
    assert load(tmp_path).lm_head.weight.dtype is torch.float16


def test_tied_embeddings_share_memory(folder: Path) -> None:
    model = load(folder)
    embeddings = model.transformer.word_embeddings.weight
    assert model.lm_head.weight.data_ptr() == embeddings.data_ptr()


def test_either_of_the_tied_pair_may_be_the_stored_one(folder: Path) -> None:
    expected = prefill(load(folder), PROMPT)
    edit_weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop(EMBEDDINGS)})
    )
    assert torch.equal(prefill(load(folder), PROMPT), expected)


def test_a_tied_pair_stored_twice_is_kept_once(folder: Path) -> None:
    edit_weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDINGS].clone()})
    )
    model = load(folder)
    embeddings = model.transformer.word_embeddings.weight
    assert model.lm_head.weight.data_ptr() == embeddings.data_ptr()


def test_a_tied_pair_stored_unequal_stays_apart_as_in_transformers(folder: Path) -> None:
    edit_weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDINGS].flip(0)})
    )
    expected = oracle_logits(load_oracle(folder), PROMPT)
    torch.testing.assert_close(prefill(load(folder), PROMPT), expected, atol=1e-4, rtol=0)


def test_untied_embeddings_need_a_separate_head(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight$"):
        load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop(DENSE), f"missing: {DENSE}$"),
        (
            lambda tensors: tensors.update({"transformer.extra": torch.zeros(1)}),
            r"unexpected: transformer\.extra$",
        ),
        (
            lambda tensors: tensors.update({DENSE: torch.zeros(64, 63)}),
            rf"wrong shape: {DENSE} is \[64, 63\], config.json asks for \[64, 64\]$",
        ),
        (
            lambda tensors: tensors.update({DENSE + "s": tensors.pop(DENSE)}),
            f"missing: {DENSE}; unexpected: {DENSE}s$",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if ".h." in name],
            "and 7 more$",
        ),
        (
            lambda tensors: tensors.update({DENSE: torch.zeros(64, 64, dtype=torch.int8)}),
            f"{DENSE} is stored as int8, which is not supported",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, edit: Edit, message: str) -> None:
    edit_weights(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_layer_too_many_or_too_few_is_refused(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"unexpected: transformer\.h\.1\."):
        load(folder)
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"missing: transformer\.h\.2\."):
        load(folder)


def test_an_unknown_activation_is_refused(folder: Path) -> None:
    edit_config(folder, activation="gelato")
    with pytest.raises(CheckpointError, match="unknown activation 'gelato'"):
        load(folder)


def test_a_loaded_model_does_not_depend_on_its_files(folder: Path) -> None:
    model = load(folder)
    file = folder / "model.safetensors"
    with file.open("r+b") as weights:
        weights.seek(file.stat().st_size // 2)
        weights.write(bytes(file.stat().st_size // 2))
    assert not torch.equal(prefill(load(folder), PROMPT), prefill(model, PROMPT))


def test_a_file_is_read_from_its_beginning_to_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def read(parallel: TensorParallel, name: str, stored: Any) -> torch.Tensor:
        names.append(name)
        tensor: torch.Tensor = stored[:]
        return tensor

    edit_weights(folder, lambda tensors: tensors.update({DENSE: tensors[DENSE].half()}))
    monkeypatch.setattr(TensorParallel, "read", read)
    load(folder)
    with safe_open(folder / "model.safetensors", framework="pt") as shard:
        assert names == shard.offset_keys() != sorted(names), "half precision lies behind the rest"


def test_as_many_bytes_are_read_as_the_files_hold(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, dtype=torch.bfloat16, max_shard_size="50KB")
    plan = plan_loading(tmp_path)
    stored = sum(2 * math.prod(header.shape) for header in plan.headers.values())
    whole = load_weights(plan, dtype=torch.float32, device_map=CPU)
    assert plan.num_read_bytes(whole) == stored


def test_a_part_of_a_network_reads_a_part_of_the_bytes(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, like="40b")
    plan = plan_loading(tmp_path)
    whole, half = (
        plan.num_read_bytes(load_weights(plan, device_map=CPU, parallel=TensorParallel(0, size)))
        for size in (1, 2)
    )
    assert whole / 2 < half < whole


def test_planning_reads_no_weight(folder: Path) -> None:
    plan: LoadingPlan = plan_loading(folder)
    assert all(tensor.is_meta for tensor in plan.model.state_dict().values())


def test_a_part_of_a_network_comes_from_torchs_files_too(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("40b"), tmp_path / "model")
    file = folder / "model.safetensors"
    parts = [TensorParallel(rank, 2) for rank in range(2)]
    tensors = load_file(file)
    file.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    safe = [load_weights(plan_loading(folder), device_map=CPU, parallel=part) for part in parts]
    file.unlink()
    for part, expected in zip(parts, safe, strict=True):
        model = load_weights(plan_loading(folder), device_map=CPU, parallel=part)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
