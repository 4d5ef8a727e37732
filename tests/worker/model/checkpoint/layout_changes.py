"""Changes to a checkpoint folder that make it another layout."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from worker.model.checkpoint.random_checkpoint import SMALL_SIZE

Change = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]
EMBEDDINGS = "transformer.word_embeddings.weight"


def edit_config(**changes: object) -> Change:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        fields = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in fields.items() if v != "ABSENT"}))

    return edit


def edit_tensors(edit: Callable[[Tensors], Tensors | None]) -> Change:
    """`edit` changes the tensors, or returns others."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        changed = edit(tensors)
        save_file(tensors if changed is None else changed, file, metadata={"format": "pt"})

    return change


def add_tensors(**tensors: torch.Tensor) -> Change:
    return edit_tensors(lambda all_of_them: all_of_them.update(tensors))


def rename(new_name: Callable[[str], str]) -> Change:
    return edit_tensors(lambda tensors: {new_name(name): t for name, t in tensors.items()})


def write_shards(
    folder: Path,
    *,
    file_name: Callable[[int], str] = "model-{:05d}-of-00002.safetensors".format,
    index_name: Callable[[int], str] | None = None,
    index: str | None = "model.safetensors.index.json",
    save: Callable[[Tensors, Path], object] = save_file,
) -> None:
    """Split the weights in two; `index_name` gives the names of the files in the index."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names: dict[str, str] = {}
    for number in (1, 2):
        part = {name: tensors[name].clone() for name in sorted(tensors)[number - 1 :: 2]}
        file = folder / file_name(number)
        file.parent.mkdir(exist_ok=True)
        save(part, file)
        names |= dict.fromkeys(part, (index_name or file_name)(number))
    if index is not None:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def save_torch(folder: Path, **options: bool) -> None:
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin", **options)
    file.unlink()


def mix_dtypes(tensors: Tensors) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for index, name in enumerate(sorted(tensors)):
        tensors[name] = tensors[name].to(dtypes[index % len(dtypes)])


def resize(num_rows: int) -> Change:
    def change(tensors: Tensors) -> None:
        table = tensors[EMBEDDINGS]
        more = torch.zeros(max(0, num_rows - len(table)), table.shape[1])
        tensors[EMBEDDINGS] = torch.cat([table, more])[:num_rows].clone()

    return edit_tensors(change)


def become_hub_snapshot(folder: Path) -> None:
    """As in the hub's cache: a snapshot links to blobs that are named by their hashes."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{number:040x}")
        file.symlink_to(Path("..", "blobs", f"{number:040x}"))


def encode_config(encoding: str) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(file.read_text(), encoding=encoding)

    return change


def legacy(model_type: str, **fields: object) -> Change:
    """A config.json of the first releases, without fields that they lacked."""

    def change(folder: Path) -> None:
        common = {
            "model_type": model_type,
            "architectures": ["RWForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_RW.RWConfig"},
            "apply_residual_connection_post_layernorm": False,
            "attention_dropout": 0.0,
            "bias": False,
            "alibi": False,
            "bos_token_id": 11,
            "eos_token_id": 11,
            "hidden_dropout": 0.0,
            "hidden_size": SMALL_SIZE["hidden_size"],
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "n_head": SMALL_SIZE["num_attention_heads"],
            "n_layer": SMALL_SIZE["num_hidden_layers"],
            "torch_dtype": "bfloat16",
            "transformers_version": "4.27.4",
            "use_cache": True,
            "vocab_size": SMALL_SIZE["vocab_size"],
        }
        kept = {name: v for name, v in (common | fields).items() if v != "ABSENT"}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def replace(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
