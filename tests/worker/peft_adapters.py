"""Write LoRA adapters with peft, and load peft's model with them as an oracle."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import FalconForCausalLM

ALL_LINEARS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


def write_adapter(folder: Path, checkpoint: Path, *, seed: int = 0, **fields: Any) -> Path:
    """Write an adapter with random weights that are large enough to change the output."""
    defaults: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": [*ALL_LINEARS]}
    config = LoraConfig(task_type="CAUSAL_LM", **(defaults | fields))
    with _ignore_peft_warning():
        model: Any = get_peft_model(_load(checkpoint), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def load_peft(checkpoint: Path, *adapters: Path) -> Any:
    """Load peft's model with adapters named after their folders; `acting_as` selects one."""
    first, *others = adapters
    with _ignore_peft_warning():
        model: Any = PeftModel.from_pretrained(_load(checkpoint), first, adapter_name=first.name)
        for other in others:
            model.load_adapter(other, adapter_name=other.name)
    return model.eval()


@contextmanager
def acting_as(model: Any, adapter: str | None) -> Iterator[Any]:
    """Yield the model with one adapter active, or with none."""
    if adapter is None:
        with model.disable_adapter():
            yield model
    else:
        model.set_adapter(adapter)
        yield model


@contextmanager
def _ignore_peft_warning() -> Iterator[None]:
    """Ignore that peft uses a name that transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def _load(checkpoint: Path) -> Any:
    model_class: Any = FalconForCausalLM
    model = model_class.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model
