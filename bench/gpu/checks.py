"""Check the engine on this device against transformers' Falcon, on small random checkpoints."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.gpu.scale import Scale, serving_dtype
from bench.gpu.steps import BLOCK_SIZE, packed_step
from worker.engine import Engine, EngineConfig, Executor, Request, SamplingParams
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.outputs import TokenOutput
from worker.model.checkpoint.random_checkpoint import PUBLISHED_SIZES, write_random_checkpoint
from worker.model.checkpoint.weights import load_model
from worker.model.fused.fusing import DecoderLayers, fuse_layers

VOCAB_SIZE = 4096  # a small vocabulary checks the head equally well
PROMPT_LENGTHS = (1, 7, 33, 100)
STYLES = ("7b", "40b", "rw")
# Half precision rounds at every step. Another order of summation may double what one pass loses.
TOLERATED = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    passed: bool
    seen: str


def run_checks(scale: Scale, device: torch.device) -> list[Check]:
    """Run each check on a checkpoint of its own, which is deleted before the next one."""
    checks = []
    for like in STYLES:
        with tempfile.TemporaryDirectory() as folder:
            checks.append(check_logits(Path(folder), like, scale, device))
    for like in STYLES:
        with tempfile.TemporaryDirectory() as folder:
            checks.append(check_greedy(Path(folder), like, device))
    return checks


def check_logits(path: Path, like: str, scale: Scale, device: torch.device) -> Check:
    """Check that logits in the dtype of serving are as near to float32 as with transformers."""
    width = _width(like) if scale.full_size else {}
    write_random_checkpoint(
        path,
        like=like,
        num_layers=scale.checked_layers,
        vocab_size=VOCAB_SIZE,
        dtype=torch.bfloat16,  # the same weights in every precision
        **width,
    )
    prompts = _prompts()
    exact = _oracle_logits(path, prompts, torch.float32, device)
    dtype = serving_dtype(device)
    theirs = _error(_oracle_logits(path, prompts, dtype, device), exact)
    ours = _error(_own_logits(path, prompts, dtype, device), exact)
    # In float32 both are equal except for rounding.
    bound = TOLERATED * max(theirs, 1e-5)
    seen = f"off by {ours:.2e}, transformers by {theirs:.2e} (of the logits' spread)"
    return Check(f"{like}: logits in {str(dtype).removeprefix('torch.')}", ours <= bound, seen)


def check_greedy(path: Path, like: str, device: torch.device) -> Check:
    """Check that several prompts in float32 have the tokens of transformers' `generate`."""
    write_random_checkpoint(path, like=like)
    oracle = _oracle(path, torch.float32, device)
    prompts = _prompts(vocab_size=512)
    expected = [_oracle_greedy(oracle, prompt) for prompt in prompts]
    told = _engine_greedy(path, prompts, device)
    num_equal = sum(one == other for one, other in zip(told, expected, strict=True))
    seen = f"{num_equal} of {len(prompts)} continuations"
    return Check(f"{like}: greedy tokens in float32", num_equal == len(prompts), seen)


def _width(like: str) -> dict[str, Any]:
    size = PUBLISHED_SIZES[like]
    width = {"hidden_size": size["hidden_size"], "num_heads": size["num_attention_heads"]}
    return width | {k: v for k, v in size.items() if k == "num_kv_heads"}


def _prompts(vocab_size: int = VOCAB_SIZE) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randint(12, vocab_size, (length,), generator=draw).tolist()
        for length in PROMPT_LENGTHS
    ]


def _oracle(path: Path, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import FalconForCausalLM

    oracle: Any = FalconForCausalLM.from_pretrained(path, dtype=dtype)
    return oracle.to(device).eval()


@torch.inference_mode()
def _oracle_logits(
    path: Path, prompts: list[list[int]], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return transformers' logits of each prompt's last token, float32 [prompts, vocab_size]."""
    oracle = _oracle(path, dtype, device)
    rows = [oracle(torch.tensor([prompt], device=device)).logits[0, -1] for prompt in prompts]
    return torch.stack(rows).float()


def _own_logits(
    path: Path, prompts: list[list[int]], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return the engine's logits of each prompt's last token, computed in one packed step."""
    model = load_model(str(path), dtype=dtype, device=device)
    fuse_layers(model, DecoderLayers.FUSED)
    runner = ModelRunner.with_cache(model, num_blocks=64, block_size=BLOCK_SIZE)
    step = packed_step([(0, len(prompt)) for prompt in prompts], VOCAB_SIZE)
    step.token_ids[:] = [token_id for prompt in prompts for token_id in prompt]
    return runner.compute(step)


def _error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the root mean square error in standard deviations of the exact logits."""
    return float((logits - exact).square().mean().sqrt() / exact.std())


def _oracle_greedy(oracle: Any, prompt: list[int], num_new: int = 16) -> list[int]:
    input_ids = torch.tensor([prompt], device=oracle.device)
    output = oracle.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=num_new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def _engine_greedy(
    path: Path, prompts: list[list[int]], device: torch.device, num_new: int = 16
) -> list[list[int]]:
    engine = Engine.from_pretrained(
        str(path),
        dtype="float32",
        device=str(device),
        executor=Executor.TORCH,
        config=EngineConfig(max_step_tokens=64, max_chunk_tokens=16),
    )
    params = SamplingParams(max_new_tokens=num_new)
    for number, prompt in enumerate(prompts):
        engine.add(Request(request_id=str(number), prompt_token_ids=prompt, params=params))
    told: list[list[int]] = [[] for _ in prompts]
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, TokenOutput):
                told[int(output.request_id)].append(output.token_id)
    return told
