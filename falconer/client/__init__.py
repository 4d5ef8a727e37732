"""The client of the HTTP interface, synchronous and for asyncio.

Both classes drive the calls of `calls.py` and `batch_calls.py` and the event log of `event_log.py`,
which do no I/O.
"""

from falconer.client.async_client import AsyncClient, AsyncJob
from falconer.client.batch_models import BatchInfo, BatchResult, FileInfo
from falconer.client.batches import AsyncBatch, Batch
from falconer.client.errors import (
    AccessDenied,
    ApiError,
    BatchFailed,
    Conflict,
    InvalidRequest,
    JobFailed,
    NotFound,
    TooManyRequests,
    Unavailable,
    WaitTimeout,
)
from falconer.client.models import JobInfo, RequestFields, TextDelta
from falconer.client.retries import Retries
from falconer.client.sync_client import Client, Job

__all__ = [
    "AccessDenied",
    "ApiError",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "Batch",
    "BatchFailed",
    "BatchInfo",
    "BatchResult",
    "Client",
    "Conflict",
    "FileInfo",
    "InvalidRequest",
    "Job",
    "JobFailed",
    "JobInfo",
    "NotFound",
    "RequestFields",
    "Retries",
    "TextDelta",
    "TooManyRequests",
    "Unavailable",
    "WaitTimeout",
]
