"""Prometheus metrics of the api, in their own registry.

Metrics of the queue and of jobs come from Redis and are the same on every replica. Each replica
counts the tokens of the jobs whose end its own requests awaited. Workers export the rest.
"""

import time
from collections.abc import Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.protocol import JobStatus, Succeeded
from shared.queue.backlog import Depth

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 300)
GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 10)


class JobTotals(Collector):
    """A counter with values from Redis."""

    def __init__(self) -> None:
        self.totals: Mapping[JobStatus, int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "falconer_jobs",
            "Jobs accepted (queued) and jobs ended, by status; the same on every replica.",
            labels=["status"],
        )
        for status, total in sorted(self.totals.items()):
            family.add_metric([status], total)
        yield family


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("falconer_requests", "HTTP requests.", ["route", "code"])
        self.request_seconds = histogram(
            "falconer_request_seconds",
            "From the request to the end of the response.",
            ["route"],
            buckets=SECONDS,
        )
        self.jobs = JobTotals()
        self.registry.register(self.jobs)
        self.tokens = counter("falconer_tokens", "Tokens of jobs that succeeded.", ["kind"])
        self.first_token = histogram(
            "falconer_time_to_first_token_seconds",
            "From the request to the first token of streamed responses.",
            buckets=SECONDS,
        )
        self.inter_token = histogram(
            "falconer_inter_token_seconds",
            "Between the tokens of streamed responses.",
            buckets=GAP_SECONDS,
        )
        self.queue_depth = gauge("falconer_queue_depth", "Jobs in the queue.", ["state"])
        self.workers = gauge("falconer_workers", "Live workers.")
        self.redis_up = gauge(
            "falconer_redis_up",
            "1 if Redis answered this scrape in time; if 0, queue, jobs and workers are old.",
        )

    def record_succeeded(self, finished: Succeeded) -> None:
        self.tokens.labels("prompt").inc(finished.result.usage.prompt_tokens)
        self.tokens.labels("generated").inc(finished.result.usage.completion_tokens)

    def record_service(
        self, depth: Depth, totals: Mapping[JobStatus, int], num_workers: int
    ) -> None:
        self.queue_depth.labels("waiting").set(depth.waiting)
        self.queue_depth.labels("running").set(depth.running)
        self.jobs.totals = totals
        self.workers.set(num_workers)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class MeteredApp:
    """ASGI middleware that counts requests by route template and status code."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code, started_at = 500, time.perf_counter()

        async def noting_send(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, code).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started_at)
