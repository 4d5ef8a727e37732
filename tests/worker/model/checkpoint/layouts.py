"""Checkpoint folders as they are on the hub and on disks: each a change of a small random one."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from tests.worker.model.checkpoint.layout_changes import (
    EMBEDDINGS,
    Change,
    add_tensors,
    become_hub_snapshot,
    both,
    drop_weights,
    edit_config,
    edit_tensors,
    encode_config,
    legacy,
    mix_dtypes,
    rename,
    replace,
    resize,
    save_torch,
    write_shards,
)
from worker.model.checkpoint.random_checkpoint import SMALL_SIZE

LM_HEAD = "lm_head.weight"
LAYER = "transformer.h.0.self_attention."
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9951028193\n"


@dataclass(frozen=True)
class Layout:
    """A folder that must load, or be refused in a line that matches `refusal`.

    A layout that loads must compute what transformers computes from the folder. If transformers
    refuses it or leaves weights random, it must compute what the unchanged folder computes.
    """

    change: Change
    like: str = "7b"
    transformers: Literal["loads", "refuses", "leaves weights random"] = "loads"
    refusal: str | None = None


ODD_BUFFERS: Mapping[str, Any] = {
    f"{LAYER}rotary.inv_freq": torch.zeros(4),
    f"{LAYER}maybe_rotary.cos_cached": torch.zeros(1, 8, dtype=torch.bfloat16),
    f"{LAYER}masked_bias": torch.tensor(-1e4),
    f"{LAYER}bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
    f"{LAYER}scale_mask_softmax.causal_mask": torch.ones(8, 8, dtype=torch.uint8),
    "transformer.position_ids": torch.arange(8),
}
OTHER_HEADS: Mapping[str, Any] = {
    "v_head.summary.weight": torch.zeros(1, 64),
    "v_head.summary.bias": torch.zeros(1),
    "score.weight": torch.zeros(2, 64),
}
QKV = f"{LAYER}query_key_value.weight"
TORCH_INDEX = "pytorch_model.bin.index.json"
torch_name = "pytorch_model-{:05d}-of-00002.bin".format

LAYOUTS: dict[str, Layout] = {
    "as saved": Layout(lambda folder: None),
    "40b as saved": Layout(lambda folder: None, like="40b"),
    "11b as saved": Layout(lambda folder: None, like="11b"),
    "rw as saved": Layout(lambda folder: None, like="rw"),
    "shards": Layout(write_shards),
    "shards without an index": Layout(partial(write_shards, index=None), transformers="refuses"),
    "shards in a subfolder": Layout(
        partial(write_shards, file_name="weights/part-{}.safetensors".format)
    ),
    "shards named ./": Layout(
        partial(write_shards, index_name="./model-{:05d}-of-00002.safetensors".format)
    ),
    "shards by the path of another machine": Layout(
        partial(write_shards, index_name="/home/ada/out/model-{:05d}-of-00002.safetensors".format),
        transformers="refuses",
    ),
    "pytorch_model.bin": Layout(save_torch),
    "pytorch_model.bin of torch before 1.6": Layout(
        partial(save_torch, _use_new_zipfile_serialization=False)
    ),
    "shards of torch": Layout(
        partial(write_shards, file_name=torch_name, index=TORCH_INDEX, save=torch.save)
    ),
    "shards of torch without an index": Layout(
        partial(write_shards, file_name=torch_name, index=None, save=torch.save),
        transformers="refuses",
    ),
    "both formats": Layout(replace("pytorch_model.bin", b"not even read")),
    "no metadata": Layout(
        lambda folder: save_file(
            {n: t.clone() for n, t in load_file(folder / "model.safetensors").items()},
            folder / "model.safetensors",
        )
    ),
    "mixed dtypes": Layout(edit_tensors(mix_dtypes)),
    "buffers": Layout(add_tensors(**ODD_BUFFERS)),
    "other heads": Layout(add_tensors(**OTHER_HEADS)),
    "a tied head": Layout(edit_tensors(lambda t: t.update({LM_HEAD: t[EMBEDDINGS].clone()}))),
    "the head alone": Layout(edit_tensors(lambda t: t.update({LM_HEAD: t.pop(EMBEDDINGS)}))),
    "an untied head": Layout(edit_tensors(lambda t: t.update({LM_HEAD: t[EMBEDDINGS].flip(0)}))),
    "without transformer.": Layout(rename(lambda name: name.removeprefix("transformer."))),
    "prefix module.": Layout(rename("module.{}".format), transformers="leaves weights random"),
    "prefix base_model.model.": Layout(
        rename("base_model.model.{}".format), transformers="leaves weights random"
    ),
    "prefix _orig_mod.": Layout(
        rename("_orig_mod.{}".format), transformers="leaves weights random", like="11b"
    ),
    "prefix of a value head": Layout(
        both(rename("pretrained_model.{}".format), add_tensors(**OTHER_HEADS)),
        transformers="leaves weights random",
    ),
    "a hub snapshot": Layout(become_hub_snapshot),
    "a table of more rows": Layout(resize(576), transformers="refuses"),
    "a table of fewer rows": Layout(edit_config(vocab_size=576), transformers="refuses"),
    "a resized table": Layout(both(resize(576), edit_config(vocab_size=576))),
    "torch.bfloat16": Layout(
        edit_config(dtype="ABSENT", torch_dtype="torch.bfloat16"), transformers="refuses"
    ),
    "dtype and torch_dtype": Layout(edit_config(dtype="float32", torch_dtype="float16")),
    "a byte order mark": Layout(encode_config("utf-8-sig"), transformers="refuses"),
    "config.json of PowerShell": Layout(encode_config("utf-16"), transformers="refuses"),
    "n_embed": Layout(edit_config(hidden_size="ABSENT", n_embed=64)),
    "rope of transformers 4": Layout(
        edit_config(rope_parameters="ABSENT", rope_theta=10000.0, rope_scaling=None)
    ),
    "fields of other code": Layout(
        edit_config(auto_map={"AutoConfig": "a.B"}, _name_or_path="x/y", pretraining_tp=1)
    ),
    "no generation_config.json": Layout(lambda f: (f / "generation_config.json").unlink()),
    "the first falcon-7b": Layout(
        legacy("RefinedWebModel", multi_query=True, parallel_attn=True), transformers="refuses"
    ),
    "the first falcon-40b": Layout(
        legacy("RefinedWeb", n_head_kv=SMALL_SIZE["num_kv_heads"], parallel_attn=True),
        like="40b",
        transformers="refuses",
    ),
    "the first falcon-rw": Layout(
        legacy("RefinedWebModel", alibi=True, bias=True, multi_query=False, parallel_attn=False),
        like="rw",
        transformers="refuses",
    ),
    "the first falcon-rw by its defaults": Layout(
        legacy("RefinedWebModel", alibi=True, bias=True), like="rw", transformers="refuses"
    ),
    "the first falcon-40b in torch's format": Layout(
        both(
            legacy("RefinedWeb", n_head_kv=SMALL_SIZE["num_kv_heads"]),
            partial(write_shards, file_name=torch_name, index=TORCH_INDEX, save=torch.save),
        ),
        like="40b",
        transformers="refuses",
    ),
    "LFS pointer of the weights": Layout(
        replace("model.safetensors", LFS_POINTER),
        transformers="refuses",
        refusal=r"model\.safetensors is a Git LFS pointer.*git lfs pull",
    ),
    "LFS pointer of a shard": Layout(
        both(write_shards, replace("model-00002-of-00002.safetensors", LFS_POINTER)),
        transformers="refuses",
        refusal=r"model-00002-of-00002\.safetensors is a Git LFS pointer",
    ),
    "LFS pointer of torch's weights": Layout(
        both(drop_weights, replace("pytorch_model.bin", LFS_POINTER)),
        transformers="refuses",
        refusal=r"pytorch_model\.bin is a Git LFS pointer",
    ),
    "LFS pointer of the config": Layout(
        replace("config.json", LFS_POINTER),
        transformers="refuses",
        refusal=r"config\.json is a Git LFS pointer",
    ),
    "a shard is missing": Layout(
        both(write_shards, lambda f: (f / "model-00001-of-00002.safetensors").unlink()),
        transformers="refuses",
        refusal=r"lacks weight files its index names: model-00001",
    ),
    "half a numbered set": Layout(
        both(
            partial(write_shards, index=None),
            lambda f: (f / "model-00001-of-00002.safetensors").unlink(),
        ),
        transformers="refuses",
        refusal="holds 1 weight files of 2, and no index",
    ),
    "an adapter that is not merged": Layout(
        both(
            rename(lambda name: name.replace(QKV, QKV.replace("weight", "base_layer.weight"))),
            add_tensors(**{QKV.replace("weight", "lora_A.default.weight"): torch.zeros(4, 64)}),
        ),
        transformers="leaves weights random",
        refusal=r"an adapter that is not merged: merge_and_unload\(\)",
    ),
    "layers that config.json does not count": Layout(
        edit_config(num_hidden_layers=1), refusal=r"unexpected: transformer\.h\.1\."
    ),
    "another format": Layout(
        both(drop_weights, replace("ggml-model-q4_0.gguf", b"GGUF")),
        transformers="refuses",
        refusal=r"no weights in .*it must hold model\.safetensors or pytorch_model\.bin",
    ),
    "quantized": Layout(
        edit_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        transformers="refuses",
        refusal="quantized checkpoints are not supported",
    ),
}


def make_layout(layout: Layout, original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder)
    layout.change(folder)
    return folder
