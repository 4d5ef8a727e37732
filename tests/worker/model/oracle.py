"""The oracle of the network: transformers' Falcon, one unpadded prompt at a time."""

from pathlib import Path
from typing import Any

import torch
from transformers import FalconForCausalLM


def load_oracle(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    oracle: Any = FalconForCausalLM.from_pretrained(path, dtype=dtype)
    return oracle.eval()


@torch.inference_mode()
def oracle_logits(oracle: Any, token_ids: list[int]) -> torch.Tensor:
    """float32 [num_tokens, vocab_size]."""
    logits: torch.Tensor = oracle(torch.tensor([token_ids])).logits[0]
    return logits.float()


def oracle_greedy(
    oracle: Any, token_ids: list[int], num_new_tokens: int
) -> tuple[list[int], torch.Tensor]:
    """The continuation, and by how much each token beat the next best."""
    input_ids = torch.tensor([token_ids])
    output = oracle.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),  # else it takes pad ids in the prompt for pads
        max_new_tokens=num_new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(output.logits).topk(2).values
    return output.sequences[0, len(token_ids) :].tolist(), best[:, 0] - best[:, 1]
