"""Adapters that peft saved are read as peft reads them, or refused by folder and field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worker.peft_adapters import ALL_LINEARS, load_peft, write_adapter
from worker.model.checkpoint import adapter_weights
from worker.model.checkpoint.adapter_folders import CONFIG_FILE, AdapterFolder
from worker.model.checkpoint.adapter_weights import WEIGHTS_FILES, check_peft, read_adapter
from worker.model.checkpoint.weights import load_model
from worker.model.errors import CheckpointError
from worker.model.falcon import FalconForCausalLM
from worker.model.lora import LoraAdapter, merge_adapters

CPU = torch.device("cpu")
QKV_1 = "transformer.h.1.self_attention.query_key_value"


@pytest.fixture(scope="module")
def checkpoint_40b(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("40b")


@pytest.fixture(scope="module")
def model(checkpoint_40b: Path) -> FalconForCausalLM:
    return load_model(str(checkpoint_40b), device=CPU)


@pytest.fixture
def adapter(checkpoint_40b: Path, tmp_path: Path) -> AdapterFolder:
    """To be spoiled."""
    return AdapterFolder(write_adapter(tmp_path / "verse", checkpoint_40b))


def spoil_config(folder: AdapterFolder, **fields: Any) -> None:
    file = folder.path / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def assert_same_updates(adapter: LoraAdapter, peft_model: Any, strength: float = 1.0) -> None:
    """The update of every linear layer equals peft's."""
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in peft_model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert adapter.keys() == layers.keys()
    for name, update in adapter.items():
        expected = strength * layers[name].get_delta_weight("verse")
        assert expected.std() > 0.01
        torch.testing.assert_close(update.up @ update.down, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"r": 8, "lora_alpha": 4, "target_modules": ["query_key_value"]},
        {"use_rslora": True, "lora_dropout": 0.5, "init_lora_weights": "gaussian"},
        {"target_modules": ["dense"], "layers_to_transform": [1]},
        {
            "rank_pattern": {"query_key_value": 2, "h.1.mlp.dense_4h_to_h": 6},
            "alpha_pattern": {"self_attention.*": 3},
        },
    ],
    ids=["all", "one", "rslora", "one layer", "patterns"],
)
def test_updates_equal_peft(
    fields: dict[str, Any], checkpoint_40b: Path, model: FalconForCausalLM, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "verse", checkpoint_40b, **fields)
    updates = read_adapter(AdapterFolder(path), model)
    assert_same_updates(updates, load_peft(checkpoint_40b, path))


def test_its_strength_multiplies_an_update(
    checkpoint_40b: Path, model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    half = AdapterFolder(adapter.path, strength=-0.5)
    peft_model = load_peft(checkpoint_40b, adapter.path)
    assert_same_updates(read_adapter(half, model), peft_model, strength=-0.5)


def test_an_adapter_of_every_style_fits_its_model(
    pair: tuple[FalconForCausalLM, Any], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, _ = pair
    path = write_adapter(tmp_path / "verse", checkpoint(model.config.style))
    assert len(read_adapter(AdapterFolder(path), model)) == 4 * model.config.num_layers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("bias", "all"),
        ("lora_bias", True),
        ("enable_lora", [True, False, True]),
        ("layer_replication", [[0, 2], [0, 2]]),
        ("trainable_token_indices", [1, 2]),
        ("alora_invocation_tokens", [3]),
        ("target_parameters", ["weight"]),
        ("init_lora_weights", "pissa"),
        ("a_field_of_the_future", "on"),
    ],
)
def test_unsupported_fields_are_refused_by_folder_and_field(
    field: str, value: Any, model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    spoil_config(adapter, **{field: value})
    with pytest.raises(CheckpointError, match=rf"verse/adapter_config\.json: {field} is "):
        read_adapter(adapter, model)


@pytest.mark.parametrize(("field", "value"), [("r", 0), ("r", "8"), ("lora_alpha", "8")])
def test_a_rank_or_scale_must_be_a_number(
    field: str, value: Any, model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    spoil_config(adapter, **{field: value})
    with pytest.raises(CheckpointError, match=rf"verse/adapter_config\.json: {field} must be a "):
        read_adapter(adapter, model)


def test_an_adapter_of_the_head_is_refused_by_its_tensor(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    untied = checkpoint("11b")
    path = write_adapter(tmp_path / "verse", untied, target_modules=["lm_head", "dense"])
    with pytest.raises(CheckpointError, match=r"verse: .* holds base_model.model.lm_head.lora_A"):
        read_adapter(AdapterFolder(path), load_model(str(untied), device=CPU))


def test_an_adapter_for_another_model_is_refused_with_both_shapes(
    checkpoint: Callable[[str], Path], model: FalconForCausalLM, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "verse", checkpoint("7b"), target_modules=[ALL_LINEARS[0]])
    with pytest.raises(CheckpointError, match=r"query_key_value.lora_B.weight is \[80, 4\]; .*96"):
        read_adapter(AdapterFolder(path), model)


def test_a_rank_that_differs_from_the_config_is_refused(
    model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    spoil_config(adapter, rank_pattern={QKV_1: 2})
    with pytest.raises(CheckpointError, match=rf"{QKV_1}.lora_A.weight is \[4, 64\]; .* \[2, 64\]"):
        read_adapter(adapter, model)


def test_half_an_update_is_refused(model: FalconForCausalLM, adapter: AdapterFolder) -> None:
    tensors = load_file(adapter.path / WEIGHTS_FILES[0])
    del tensors[f"base_model.model.{QKV_1}.lora_B.weight"]
    save_file(tensors, adapter.path / WEIGHTS_FILES[0])
    with pytest.raises(CheckpointError, match=f"lack base_model.model.{QKV_1}.lora_B.weight"):
        read_adapter(adapter, model)


def test_an_adapter_without_tensors_is_refused(
    model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    save_file({}, adapter.path / WEIGHTS_FILES[0])
    with pytest.raises(CheckpointError, match="holds no tensor"):
        read_adapter(adapter, model)


def test_broken_or_absent_weights_are_refused(
    model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    weights = adapter.path / WEIGHTS_FILES[0]
    weights.write_bytes(b"no header")
    with pytest.raises(CheckpointError, match=r"verse/adapter_model\.safetensors cannot be read"):
        read_adapter(adapter, model)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"safetensors is a Git LFS pointer"):
        read_adapter(adapter, model)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"verse: neither adapter_model\.safetensors nor"):
        read_adapter(adapter, model)


def test_torch_weights_are_read_without_running_their_code(
    checkpoint_40b: Path, model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    safe = adapter.path / WEIGHTS_FILES[0]
    torch.save(load_file(safe), adapter.path / "adapter_model.bin")
    safe.unlink()
    assert_same_updates(read_adapter(adapter, model), load_peft(checkpoint_40b, adapter.path))
    torch.save({"a": Path()}, adapter.path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.bin cannot be read: it holds more than ten"):
        read_adapter(adapter, model)


# Fields of older and newer releases of peft that change nothing in a saved adapter.
HARMLESS: list[dict[str, Any]] = [
    {"merge_weights": True, "enable_lora": None},  # 0.2
    {"merge_weights": False, "fan_in_fan_out": True},
    {"target_modules": None, "modules_to_save": [], "bias": "none"},
    {"loftq_config": {"loftq_bits": 4}, "megatron_config": {}, "layers_pattern": []},
    {"runtime_config": {"ephemeral_gpu_offload": False}},
    {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva", "exclude_modules": ["lm_head"]},
    {"corda_config": {"corda_method": "ipm"}, "use_dora": False, "lora_bias": False},
    {"trainable_token_indices": None, "qalora_group_size": 32, "ensure_weight_tying": True},
    {"a_field_of_the_future": None, "and_another": False, "and_a_third": {}},
    {"revision": "main", "auto_mapping": {"base_model_class": "RWForCausalLM"}},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_fields_that_change_nothing_in_a_saved_adapter_are_accepted(
    fields: dict[str, Any], model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    expected = read_adapter(adapter, model)
    spoil_config(adapter, **fields)
    spoiled = read_adapter(adapter, model)
    assert spoiled.keys() == expected.keys()
    for name, update in expected.items():
        assert torch.equal(spoiled[name].up, update.up)
        assert torch.equal(spoiled[name].down, update.down)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True")
def test_peft_ignores_fan_in_fan_out_of_a_linear_layer_too(
    checkpoint_40b: Path, model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    spoil_config(adapter, fan_in_fan_out=True)
    assert_same_updates(read_adapter(adapter, model), load_peft(checkpoint_40b, adapter.path))


def test_a_config_that_is_no_json_is_refused(
    model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    (adapter.path / CONFIG_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be read"):
        read_adapter(adapter, model)


def test_merging_adds_up_all_adapters_and_rounds_once(
    checkpoint_40b: Path, adapter: AdapterFolder, tmp_path: Path
) -> None:
    other = AdapterFolder(
        write_adapter(tmp_path / "tales", checkpoint_40b, seed=1, target_modules=["dense"])
    )
    model = load_model(str(checkpoint_40b), dtype=torch.bfloat16, device=CPU)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapters = [read_adapter(folder, model) for folder in (adapter, other)]
    merge_adapters(model, adapters)
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        updates = [each[layer] for each in adapters if layer in each]
        total = before[name].float()
        for update in updates:
            total = total + update.up @ update.down
        assert torch.equal(tensor, total.bfloat16()), name
        assert torch.equal(tensor, before[name]) == (not updates), name


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_weights, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match="package peft, which the extra lora brings"):
        check_peft()


def test_a_pattern_that_is_no_regular_expression_is_refused(
    model: FalconForCausalLM, adapter: AdapterFolder
) -> None:
    spoil_config(adapter, rank_pattern={"(": 2})
    with pytest.raises(CheckpointError, match="a pattern must be a regular expression"):
        read_adapter(adapter, model)
