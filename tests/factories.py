"""Valid values for tests, with the fields that a test sets."""

from typing import Any
from uuid import uuid4

from shared.protocol import Batch, ChatJob, ModelCard, Succeeded, WorkerInfo
from shared.results import ChatResult, SequenceResult, Usage


def make_job(**fields: Any) -> ChatJob:
    """Return a job of one row and 10 tokens of KV cache."""
    defaults: dict[str, Any] = {
        "id": uuid4().hex,
        "prompt": None if "messages" in fields else "Hello",
        "generate_kwargs": {},
        "seed": 1,
        "card_hash": "card",
        "token_ids": [1, 2, 3, 4],
        "max_new_tokens": 6,
    }
    return ChatJob(**(defaults | fields))


def make_succeeded(job_id: str, *, attempt: int = 1, text: str = " world") -> Succeeded:
    return Succeeded(
        job_id=job_id,
        attempt=attempt,
        result=ChatResult(
            result="Hello" + text,
            id=job_id,
            sequences=[SequenceResult(text=text, finish_reason="stop", token_count=2)],
            usage=Usage(prompt_tokens=4, completion_tokens=2, total_tokens=6),
            seed=1,
        ),
        batch=Batch(mean_rows=1.0, max_rows=1),
        queue_ms=1.0,
        run_ms=2.0,
    )


def make_card(**fields: Any) -> ModelCard:
    defaults: dict[str, Any] = {
        "name": "test",
        "context_length": 64,
        "vocab_size": 256,
        "eos_token_ids": [0],
        "pad_token_id": None,
        "bos_token_id": None,
        "chat_template": None,
        "max_rows": 8,
        "max_kv_tokens": 512,
        "max_num_beams": 8,
    }
    return ModelCard(**(defaults | fields))


def make_worker_info(worker_id: str = "w1", **fields: Any) -> WorkerInfo:
    defaults: dict[str, Any] = {
        "model": "test",
        "card_hash": "card",
        "device": "cpu",
        "version": "0",
        "started_ms": 0,
    }
    return WorkerInfo(id=worker_id, **(defaults | fields))
