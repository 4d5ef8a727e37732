"""Train the tiny Falcon on a CPU, and write a checkpoint that transformers loads unchanged.

    nice -n 10 python -m tools.tiny_falcon.train --steps 2000

Needs the `worker` extra, one core and about twenty minutes. The corpus is generated.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import FalconConfig, FalconForCausalLM, GenerationConfig

from tools.tiny_falcon.corpus import TRAINING_SEED, Document, documents, heldout
from tools.tiny_falcon.tokenizer import (
    END_OF_TEXT_ID,
    MAX_LENGTH,
    VOCAB_SIZE,
    save_tokenizer,
    train_tokenizer,
)
from worker.model.checkpoint.tiny import bundled_checkpoint

IGNORED = -100  # label of tokens without loss
TOKENS_PER_STEP = 2048
WINDOW = 256
LONG_WINDOW = 1024  # of some steps, so that the model learns long prompts
LONG_WINDOW_EVERY = 40  # steps; attention makes a long step five times as slow
LEARNING_RATE = 3e-3
WARMUP_STEPS = 60
SAVE_EVERY = 500
HELDOUT_DOCUMENTS = 300

Batch = tuple[torch.Tensor, torch.Tensor]  # input_ids and labels, int64 [rows, window]


def tiny_config() -> FalconConfig:
    """Return the architecture of falcon-7b with 1.9 M parameters, which take 3.8 MB in bfloat16."""
    return FalconConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        multi_query=True,
        parallel_attn=True,
        new_decoder_architecture=False,
        bias=False,
        alibi=False,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
    )


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[int]]:
    """Return token ids and labels, with the end-of-text token."""
    token_ids: list[int] = []
    labels: list[int] = []
    for segment in document:
        ids = tokenizer.encode(segment.text).ids
        token_ids += ids
        labels += ids if segment.learned else [IGNORED] * len(ids)
    return [*token_ids, END_OF_TEXT_ID], [*labels, END_OF_TEXT_ID]


def _fill_row(
    stream: Iterator[Document], tokenizer: Tokenizer, window: int
) -> tuple[list[int], list[int]]:
    """Join whole documents, of which the last is cut, so that a row begins as a prompt does."""
    row: list[int] = []
    labels: list[int] = []
    while len(row) < window:
        ids, learned = encode(tokenizer, next(stream))
        row += ids
        labels += learned
    return row[:window], labels[:window]


def make_batch(stream: Iterator[Document], tokenizer: Tokenizer, window: int) -> Batch:
    rows = [_fill_row(stream, tokenizer, window) for _ in range(TOKENS_PER_STEP // window)]
    return torch.tensor([row for row, _ in rows]), torch.tensor([labels for _, labels in rows])


def loss_of(model: FalconForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the mean cross entropy per learned token in nats."""
    input_ids, labels = batch
    logits = model(input_ids=input_ids, use_cache=False).logits
    return functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


@torch.inference_mode()
def mean_loss(model: FalconForCausalLM, tokenizer: Tokenizer, texts: list[Document]) -> float:
    """Return nats per learned token, with each document alone as a prompt would be."""
    total, count = 0.0, 0
    for document in texts:
        ids, labels = encode(tokenizer, document)
        batch = (torch.tensor([ids]), torch.tensor([labels]))
        num_learned = sum(label != IGNORED for label in labels[1:])
        total += float(loss_of(model, batch)) * num_learned
        count += num_learned
    return total / count


def make_optimizers(model: FalconForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al. 2024) for matrices and AdamW for embeddings and norms."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate(step: int, num_steps: int) -> float:
    """Return a linear warm-up, followed by a cosine that ends at a fiftieth."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return LEARNING_RATE * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))


def window_at(step: int) -> int:
    is_long = step % LONG_WINDOW_EVERY == LONG_WINDOW_EVERY - 1
    return LONG_WINDOW if is_long else WINDOW


def save(model: FalconForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    """Write bfloat16 weights, tokenizer, chat template and generation defaults."""
    half = FalconForCausalLM(model.config).bfloat16()
    half.load_state_dict(model.state_dict())
    ends = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID}
    half.generation_config = GenerationConfig.from_dict(ends | {"do_sample": True, "top_k": 10})
    half.save_pretrained(directory)
    (directory / "model.safetensors").chmod(
        0o644
    )  # transformers makes it readable by its owner only
    save_tokenizer(tokenizer, directory)


def train(model: FalconForCausalLM, tokenizer: Tokenizer, num_steps: int, directory: Path) -> None:
    stream = documents(TRAINING_SEED)
    optimizers = make_optimizers(model)
    started = time.monotonic()
    for step in range(num_steps):
        batch = make_batch(stream, tokenizer, window_at(step))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps)
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            print(f"{time.monotonic() - started:7.0f} s  step {step}  loss {loss:.3f}", flush=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == num_steps:
            nats = mean_loss(model, tokenizer, heldout(HELDOUT_DOCUMENTS))
            print(f"held-out loss {nats:.4f}, perplexity {math.exp(nats):.3f}", flush=True)
            save(model, tokenizer, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=bundled_checkpoint())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(TRAINING_SEED)
    tokenizer = train_tokenizer()
    model = FalconForCausalLM(tiny_config())
    print(f"{model.num_parameters():,} parameters", flush=True)
    train(model, tokenizer, arguments.steps, arguments.out)


if __name__ == "__main__":
    main()
