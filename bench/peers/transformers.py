"""Run transformers' `generate` in float32, in static batches of `--max-rows` requests."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.peers.exchange import PeerRequest, read_task, time_task

PAD_ID = 0


def main() -> None:
    task = read_task()
    torch.set_num_threads(task.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
    # Passed as an argument, `None` would mean the checkpoint's.
    model.generation_config.eos_token_id = None
    time_task(task, lambda requests: generate_in_batches(model, requests, task.max_rows))


def generate_in_batches(model: Any, requests: list[PeerRequest], size: int) -> list[list[int]]:
    """Return the new token ids of each request; batches follow the order of the requests."""
    batches = [requests[i : i + size] for i in range(0, len(requests), size)]
    return [token_ids for batch in batches for token_ids in generate_batch(model, batch)]


def generate_batch(model: Any, batch: list[PeerRequest]) -> list[list[int]]:
    """Pad on the left, generate until the longest is done, and cut each to its own length."""
    width = max(len(request.prompt_ids) for request in batch)
    padding = [width - len(request.prompt_ids) for request in batch]
    rows = zip(batch, padding, strict=True)
    input_ids = torch.tensor(
        [[PAD_ID] * n + request.prompt_ids for request, n in rows], device=model.device
    )
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in padding], device=model.device)
    output = model.generate(
        input_ids,
        attention_mask=mask,
        max_new_tokens=max(request.num_new for request in batch),
        do_sample=False,
        pad_token_id=PAD_ID,
    )
    new = output[:, width:].tolist()
    return [row[: request.num_new] for request, row in zip(batch, new, strict=True)]


if __name__ == "__main__":
    main()
