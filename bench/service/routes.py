"""Routes that stream a completion: Falconer's `/chat`, and OpenAI's `/v1/completions`."""

from dataclasses import dataclass
from typing import Any, Protocol

from bench.report import RequestReport
from bench.workloads import WorkItem
from shared.errors import FalconerError


class Route(Protocol):
    """A route of a server."""

    @property
    def path(self) -> str: ...

    def body(self, item: WorkItem) -> dict[str, Any]:
        """Return the body of a request."""

    def read(self, event: dict[str, Any], report: RequestReport) -> bool:
        """Return whether an event has new tokens; take the results of the last one.

        Raises FalconerError if the event reports a failure.
        """


@dataclass(frozen=True, slots=True)
class Chat:
    """Falconer's own route."""

    path: str = "/chat"

    def body(self, item: WorkItem) -> dict[str, Any]:
        kwargs = {**item.generate_kwargs, "return_dict_in_generate": True}
        return {"prompt": item.prompt, "return_full_text": False, "generate_kwargs": kwargs}

    def read(self, event: dict[str, Any], report: RequestReport) -> bool:
        if "status" not in event:
            return True
        if event["status"] != "succeeded":
            raise FalconerError(f"{event['status']}: {event.get('error')}")
        report.sequences = event["sequences"]
        report.prompt_tokens = event["usage"]["prompt_tokens"]
        return False


@dataclass(frozen=True, slots=True)
class Completions:
    """OpenAI's route, for greedy requests that ignore the end of text."""

    model: str
    path: str = "/v1/completions"

    def body(self, item: WorkItem) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": item.prompt,
            "max_tokens": item.generate_kwargs["max_new_tokens"],
            "temperature": 0.0,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }

    def read(self, event: dict[str, Any], report: RequestReport) -> bool:
        if "error" in event:
            raise FalconerError(str(event["error"]))
        if usage := event.get("usage"):
            report.sequences = [{"token_count": usage["completion_tokens"]}]
            report.prompt_tokens = usage["prompt_tokens"]
        return bool(event["choices"])
