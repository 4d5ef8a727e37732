"""Prometheus metrics of the api, in their own registry.

Metrics of the queue and of jobs come from Redis and are the same on every replica. Each replica
counts the tokens of the jobs whose end its own requests awaited. Workers export the rest.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.protocol import JobStatus, Succeeded
from shared.queue.backlog import Depth

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 300)
GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 10)

M = TypeVar("M", bound=MetricWrapperBase)


class JobTotals(Collector):
    """A counter with values from Redis."""

    def __init__(self, model_labels: tuple[str, ...]) -> None:
        self.totals: dict[tuple[str, ...], Mapping[JobStatus, int]] = {}  # by model
        self._labels = [*model_labels, "status"]

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "falconer_jobs",
            "Jobs accepted (queued) and jobs ended, by status; the same on every replica.",
            labels=self._labels,
        )
        for model, totals in self.totals.items():
            for status, total in sorted(totals.items()):
                family.add_metric([*model, status], total)
        yield family


@dataclass(slots=True)
class ModelMetrics:
    """The metrics of one model."""

    metrics: "Metrics"
    labels: tuple[str, ...]  # the name of the model; none if the service has one model
    first_token: Histogram = field(init=False)
    inter_token: Histogram = field(init=False)

    def __post_init__(self) -> None:
        self.first_token = self._own(self.metrics.first_token)
        self.inter_token = self._own(self.metrics.inter_token)

    def _own(self, metric: M) -> M:
        return metric.labels(*self.labels) if self.labels else metric

    def record_succeeded(self, finished: Succeeded) -> None:
        usage, tokens = finished.result.usage, self.metrics.tokens
        tokens.labels(*self.labels, "prompt").inc(usage.prompt_tokens)
        tokens.labels(*self.labels, "generated").inc(usage.completion_tokens)

    def record_service(
        self, depth: Depth, totals: Mapping[JobStatus, int], num_workers: int
    ) -> None:
        self.metrics.queue_depth.labels(*self.labels, "waiting").set(depth.waiting)
        self.metrics.queue_depth.labels(*self.labels, "running").set(depth.running)
        self.metrics.jobs.totals[self.labels] = totals
        self._own(self.metrics.workers).set(num_workers)


class Metrics:
    """All metrics; with several models, jobs, tokens and workers have the label `model`."""

    def __init__(self, *, has_models: bool = False) -> None:
        self.registry = CollectorRegistry()
        model = ("model",) if has_models else ()
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
        self.jobs = JobTotals(model)
        self.registry.register(self.jobs)
        self.tokens = counter("falconer_tokens", "Tokens of jobs that succeeded.", [*model, "kind"])
        self.first_token = histogram(
            "falconer_time_to_first_token_seconds",
            "From the request to the first token of streamed responses.",
            model,
            buckets=SECONDS,
        )
        self.inter_token = histogram(
            "falconer_inter_token_seconds",
            "Between the tokens of streamed responses.",
            model,
            buckets=GAP_SECONDS,
        )
        self.queue_depth = gauge("falconer_queue_depth", "Jobs in the queue.", [*model, "state"])
        self.workers = gauge("falconer_workers", "Live workers.", model)
        self.redis_up = gauge(
            "falconer_redis_up",
            "1 if Redis answered this scrape in time; if 0, queue, jobs and workers are old.",
        )

    def of_model(self, name: str | None) -> ModelMetrics:
        return ModelMetrics(self, () if name is None else (name,))

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
