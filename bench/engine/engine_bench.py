"""`falconer bench engine`: run a workload on the engine alone, without HTTP and Redis."""

from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import torch
from pydantic import ValidationError

from bench.engine.replay import replay
from bench.report import Report
from bench.workloads import WorkItem
from shared.errors import ClientError, FalconerError
from shared.process.settings import load_settings
from shared.protocol import ChatJob
from shared.request.lengths import plan_lengths
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder
from worker.engine import Engine, Request
from worker.jobs import conversion
from worker.model_loading import load_model, settle_garbage_collector
from worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class EngineBench:
    """Settings of a worker, and the number of concurrent requests."""

    model: str
    concurrency: int | None = None  # None: all requests at once
    max_rows: int | None = None  # None: the default of a worker
    dtype: str = "auto"
    device: str = "auto"
    executor: str = "auto"
    quantization: str | None = None
    threads: int | None = None
    kv_dtype: str = "auto"

    def run(self, items: list[WorkItem]) -> Report:
        engine, encoder = self.load()
        requests = [to_request(encoder, str(number), item) for number, item in enumerate(items, 1)]
        report = replay(engine, requests, self.concurrency or len(requests))
        report.extra["settings"] = settings_of(engine)
        return report

    def load(self) -> tuple[Engine, PromptEncoder]:
        """Load the engine as a worker does, to run it in this thread."""
        flags = asdict(self)
        del flags["concurrency"]
        loaded = load_model(load_settings(WorkerSettings, flags))
        torch.set_num_threads(loaded.engine.num_torch_threads)
        settle_garbage_collector()  # as a worker does
        return loaded.engine, PromptEncoder(loaded.card, loaded.tokenizer_json)


def settings_of(engine: Engine) -> dict[str, Any]:
    """Return what the engine runs with, whether given or chosen for the machine."""
    config, forecast = engine.config, engine.load_report.forecast
    return {
        "variant": str(forecast.variant) if forecast else None,
        "max_rows": config.max_rows,
        "max_step_tokens": config.max_step_tokens,
        "max_chunk_tokens": config.max_chunk_tokens,
        "threads": engine.load_report.num_threads,
    }


def to_request(encoder: PromptEncoder, request_id: str, item: WorkItem) -> Request:
    """Check a line of the workload as the service does, and convert it to an engine request."""
    try:
        kwargs = GenerateKwargs.model_validate(item.generate_kwargs)
        job = _tokenized(encoder, request_id, kwargs, item)
    except (ClientError, ValidationError) as error:
        raise FalconerError(f"request {request_id} of the workload: {error}") from error
    outputs = kwargs.structured_outputs
    to_grammar = encoder.grammars.to_grammar
    grammar = None if outputs is None else (to_grammar(outputs, is_checked=False), None)
    return conversion.to_request(request_id, job, kwargs, encoder.card, grammar=grammar)


def _tokenized(
    encoder: PromptEncoder, job_id: str, kwargs: GenerateKwargs, item: WorkItem
) -> ChatJob:
    job = ChatJob(
        id=job_id, prompt=item.prompt, generate_kwargs=item.generate_kwargs, seed=kwargs.seed or 0
    )
    if item.prompt_ids is None:
        return encoder.prepare(job, kwargs)
    context = encoder.card.context_length
    lengths = plan_lengths(len(item.prompt_ids), kwargs, context, drop_start=False)
    return msgspec.structs.replace(
        job, token_ids=item.prompt_ids, max_new_tokens=lengths.max_new_tokens
    )
