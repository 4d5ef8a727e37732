"""A worker on a checkpoint with a token that yields NaN: only requests with that token fail."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.protocol import Failed, Succeeded
from tests.integration.service import Service, SubmittedJob, WorkerChild
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
BROKEN = 10  # a token id
MEETS_IT = {"sequence_bias": [[[BROKEN], 1000.0]]}
AVOIDS_IT = {"suppress_tokens": [BROKEN]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a checkpoint with an untied head; with a tied head, every row would have NaN."""
    folder = write_random_checkpoint(tmp_path / "model", like="11b")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.word_embeddings.weight"][BROKEN] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def submit(service: Service, kwargs: dict[str, Any], seed: int = 1) -> SubmittedJob:
    return await service.submit(new_tokens=40, generate_kwargs=kwargs, seed=seed)


async def text_of(job: SubmittedJob) -> str:
    end = await job.end()
    assert isinstance(end, Succeeded), end
    return end.result.result


async def test_a_request_whose_logits_are_nan_fails_alone(
    service: Service, start_worker: StartWorker, checkpoint: Path
) -> None:
    worker = start_worker(model=checkpoint)
    await service.ready(worker)
    undisturbed = [await text_of(await submit(service, AVOIDS_IT, seed)) for seed in range(4)]
    mates = [await submit(service, AVOIDS_IT, seed) for seed in range(4)]
    broken = [await submit(service, MEETS_IT) for _ in range(4)]
    assert await asyncio.gather(*map(text_of, mates)) == undisturbed
    for job in broken:
        end = await job.end()
        assert isinstance(end, Failed)
        assert (end.error.status_code, end.attempt) == (500, 1)
        assert "nan" in end.error.message
    assert worker.process.poll() is None
    assert await service.redis.lrange(service.keys.dead_letters, 0, -1) == []
