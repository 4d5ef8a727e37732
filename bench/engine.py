"""`falconer bench engine`: the engine alone on a workload, no HTTP, no Redis."""

import gc
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import ValidationError

from bench.report import Report, RequestReport
from bench.workload import WorkItem
from shared.errors import ClientError, FalconerError
from shared.lengths import plan_lengths
from shared.parameters import GenerateKwargs
from shared.prompt import Prepared, PromptEncoder
from shared.protocol import Prompt
from shared.settings import load_settings
from worker.engine import Engine, Request, RequestFailed, TokenOutput
from worker.model_loading import load_model
from worker.settings import WorkerSettings
from worker.translation import to_sampling_params


@dataclass(slots=True)
class InFlight:
    """One request under way; times are `perf_counter` seconds."""

    report: RequestReport
    started_at: float
    unfinished: int
    last_token_at: float | None = None

    @classmethod
    def start(cls, num_sequences: int) -> "InFlight":
        empty: list[dict[str, Any]] = [
            {"token_ids": [], "finish_reason": None, "text": "", "token_count": 0}
            for _ in range(num_sequences)
        ]
        return cls(RequestReport(sequences=empty), time.perf_counter(), num_sequences)

    def take(self, output: TokenOutput, now: float) -> None:
        """Book one token; inter-token gaps are those of the first sequence."""
        sequence = self.report.sequences[output.sequence]
        sequence["token_ids"].append(output.token_id)
        sequence["token_count"] += 1
        sequence["text"] += output.text
        if self.last_token_at is None:
            self.report.ttft_s = now - self.started_at
        if output.sequence == 0:
            if self.last_token_at is not None:
                self.report.inter_token_s.append(now - self.last_token_at)
            self.last_token_at = now
        if output.finish_reason is not None:
            sequence["finish_reason"] = str(output.finish_reason)
            self.unfinished -= 1
        self.report.latency_s = now - self.started_at

    def fail(self, message: str) -> None:
        self.report.error = message
        self.unfinished = 0


@dataclass(frozen=True, slots=True)
class EngineBench:
    """`concurrency` requests in flight, or all of them at once when it is `None`.

    The other fields are settings of a worker.
    """

    model: str
    concurrency: int | None = None
    max_rows: int = 32
    dtype: str = "auto"
    device: str = "auto"
    executor: str = "auto"
    quantization: str | None = None
    threads: int | None = None

    def run(self, items: list[WorkItem]) -> Report:
        engine, encoder = self.load()
        requests = [to_request(encoder, str(number), item) for number, item in enumerate(items, 1)]
        return replay(engine, requests, self.concurrency or len(requests))

    def load(self) -> tuple[Engine, PromptEncoder]:
        """The engine as a worker would load it, to be run in this thread."""
        flags = asdict(self)
        del flags["concurrency"]
        loaded = load_model(load_settings(WorkerSettings, flags))
        torch.set_num_threads(loaded.engine.num_torch_threads)
        gc.freeze()  # as a worker does
        return loaded.engine, PromptEncoder(loaded.card, loaded.tokenizer_json)


def to_request(encoder: PromptEncoder, request_id: str, item: WorkItem) -> Request:
    """Check and translate one line of the workload as the service would."""
    try:
        kwargs = GenerateKwargs.model_validate(item.generate_kwargs)
        prepared = _prepare(encoder, kwargs, item)
    except (ClientError, ValidationError) as error:
        raise FalconerError(f"request {request_id} of the workload: {error}") from error
    params = to_sampling_params(
        kwargs,
        max_new_tokens=prepared.max_new_tokens,
        seed=kwargs.seed or 0,
        card=encoder.card,
    )
    return Request(request_id=request_id, prompt_token_ids=prepared.token_ids, params=params)


def _prepare(encoder: PromptEncoder, kwargs: GenerateKwargs, item: WorkItem) -> Prepared:
    if item.prompt_ids is None:
        return encoder.prepare(Prompt(text=item.prompt), kwargs)
    context = encoder.card.context_length
    lengths = plan_lengths(len(item.prompt_ids), kwargs, context, hole=False)
    return Prepared(item.prompt_ids, lengths.max_new_tokens)


def replay(engine: Engine, requests: list[Request], concurrency: int) -> Report:
    """Drive the engine until every request is done; reports come in the order of `requests`."""
    waiting = deque(requests)
    flights: dict[str, InFlight] = {}
    num_running, num_steps, num_rows = 0, 0, 0
    started = time.perf_counter()
    while waiting or num_running:
        while waiting and num_running < concurrency:
            request = waiting.popleft()
            flights[request.request_id] = InFlight.start(request.params.num_return_sequences)
            try:
                engine.add(request)
            except ValueError as error:
                raise FalconerError(f"request {request.request_id}: {error}") from error
            num_running += 1
        outputs = engine.step()
        now = time.perf_counter()
        num_steps, num_rows = num_steps + 1, num_rows + engine.last_step.num_rows
        for output in outputs:
            flight = flights[output.request_id]
            if isinstance(output, RequestFailed):
                flight.fail(output.message)
            else:
                flight.take(output, now)
            num_running -= flight.unfinished == 0
    wall_s = time.perf_counter() - started
    extra = {"steps": num_steps, "rows_per_step": num_rows / num_steps}
    return Report([flights[request.request_id].report for request in requests], wall_s, extra)
