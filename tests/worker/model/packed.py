"""Drive the packed forward by hand: sequences with scattered blocks, any number of tokens each."""

import random
from dataclasses import dataclass

import torch

from worker.model.falcon import FalconForCausalLM
from worker.model.kv_cache import AttentionMetadata, KVCache

BLOCK_SIZE = 4


@dataclass(slots=True)
class PagedSequence:
    token_ids: list[int]
    blocks: list[int]
    num_computed: int = 0


def make_kv_cache(model: FalconForCausalLM, num_blocks: int) -> KVCache:
    weight = model.transformer.word_embeddings.weight
    return KVCache(
        num_layers=model.config.num_layers,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        num_kv_heads=model.config.num_kv_heads,
        head_dim=model.config.head_dim,
        dtype=weight.dtype,
        device=weight.device,
    )


def scatter(
    prompts: list[list[int]], *, max_length: int, rng: random.Random
) -> tuple[list[PagedSequence], int]:
    """Sequences with blocks in random order over the cache, and the number of blocks."""
    per_sequence = -(-max_length // BLOCK_SIZE)
    blocks = list(range(per_sequence * len(prompts)))
    rng.shuffle(blocks)
    sequences = [
        PagedSequence(list(prompt), blocks[i * per_sequence : (i + 1) * per_sequence])
        for i, prompt in enumerate(prompts)
    ]
    return sequences, len(blocks)


@torch.inference_mode()
def step(
    model: FalconForCausalLM, kv_cache: KVCache, work: list[tuple[PagedSequence, int]]
) -> list[torch.Tensor]:
    """Compute the next n tokens of each sequence at once; logits [n, vocab_size] for each."""
    input_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    cu_seqlens_q = [0]
    for sequence, num_new in work:
        new = range(sequence.num_computed, sequence.num_computed + num_new)
        input_ids += [sequence.token_ids[p] for p in new]
        positions += new
        slots += [sequence.blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in new]
        cu_seqlens_q.append(len(input_ids))
        sequence.num_computed += num_new
    metadata = AttentionMetadata(
        cu_seqlens_q=cu_seqlens_q,
        context_lens=[sequence.num_computed for sequence, _ in work],
        slot_mapping=torch.tensor(slots),
        block_tables=torch.tensor([sequence.blocks for sequence, _ in work]),
    )
    hidden = model(torch.tensor(input_ids), torch.tensor(positions), [kv_cache], metadata)
    logits = model.compute_logits(hidden)
    return list(torch.split(logits, [num_new for _, num_new in work]))


def prefill(model: FalconForCausalLM, token_ids: list[int]) -> torch.Tensor:
    """Logits [num_tokens, vocab_size] of one prompt in one step."""
    sequences, num_blocks = scatter([token_ids], max_length=len(token_ids), rng=random.Random(0))
    kv_cache = make_kv_cache(model, num_blocks)
    return step(model, kv_cache, [(sequences[0], len(token_ids))])[0]


def generate_greedily(
    model: FalconForCausalLM, prompts: list[list[int]], num_new_tokens: int, rng: random.Random
) -> list[list[int]]:
    """Continue all prompts together, prompts in chunks of random size, each leaving when done."""
    longest = max(map(len, prompts)) + num_new_tokens
    sequences, num_blocks = scatter(prompts, max_length=longest, rng=rng)
    kv_cache = make_kv_cache(model, num_blocks)
    ends = [len(prompt) + num_new_tokens for prompt in prompts]
    while running := [s for s, end in zip(sequences, ends, strict=True) if len(s.token_ids) < end]:
        work = [(s, rng.randint(1, len(s.token_ids) - s.num_computed)) for s in running]
        for (sequence, _), logits in zip(work, step(model, kv_cache, work), strict=True):
            if sequence.num_computed == len(sequence.token_ids):
                sequence.token_ids.append(int(logits[-1].argmax()))
    return [s.token_ids[len(p) :] for s, p in zip(sequences, prompts, strict=True)]
