"""Run requests through an engine and report the tokens and times of each.

Imports neither the service nor its packages, so that machines without them can measure the engine.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from bench.report import Report, RequestReport
from shared.errors import FalconerError
from worker.engine import Engine, Request, RequestFailed, TokenOutput


@dataclass(slots=True)
class InFlight:
    """A running request; times are `perf_counter` seconds."""

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
        """Record one token; inter-token gaps are of the first sequence."""
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


def replay(engine: Engine, requests: list[Request], concurrency: int) -> Report:
    """Run the engine until all requests are done; return reports in the order of `requests`."""
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
