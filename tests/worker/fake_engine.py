"""An engine without a model: every request gets the token ids it asked for, one per step."""

import threading
import time

from worker.engine import (
    FailureCause,
    FinishReason,
    Output,
    Request,
    RequestFailed,
    StepReport,
    TokenOutput,
)

STEP_S = 0.0005
FAILING, BANNING, OFF_GRAMMAR = 13, 14, 15  # prompts that begin with these fail alone
CRASHING = 66  # and these end the engine


class FakeEngine:
    """Sequence i of a request is `max_new_tokens` tokens, the text of each is its letter.

    Each step waits for `gate`, which is open unless a test closes it, and takes a moment as a
    real one does: an endless request must not outrun the event loop.
    """

    def __init__(self, *, max_rows: int = 8, total_kv_tokens: int = 1000) -> None:
        self.last_step = StepReport()
        self.num_preemptions = 0
        self.num_prefix_hit_tokens = 0
        self.total_kv_tokens = total_kv_tokens
        self.gate = threading.Event()
        self.gate.set()
        self.aborted: list[str] = []
        self.priorities: list[int] = []
        self.adapters: list[str | None] = []
        self._max_rows = max_rows
        self._requests: dict[str, tuple[Request, int]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        return sum(request.params.num_return_sequences for request, _ in self._requests.values())

    @property
    def num_waiting(self) -> int:
        return 0

    @property
    def used_kv_tokens(self) -> int:
        return 10 * self.num_running

    def add(self, request: Request) -> None:
        if len(request.prompt_token_ids) > self.total_kv_tokens:
            raise ValueError("the prompt is too long for the KV cache")
        self.priorities.append(request.priority)
        self.adapters.append(request.adapter)
        self._requests[request.request_id] = (request, min(map(len, request.generated), default=0))

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self._requests.pop(request_id, None)

    def step(self) -> list[Output]:
        self.gate.wait()
        time.sleep(STEP_S)
        self.last_step = StepReport(num_rows=self.num_running, num_tokens=self.num_running)
        return [output for request_id in list(self._requests) for output in self._next(request_id)]

    def _next(self, request_id: str) -> list[Output]:
        request, done = self._requests.pop(request_id)
        if request.prompt_token_ids[0] == CRASHING:
            raise RuntimeError("the device is gone")
        if request.prompt_token_ids[0] == FAILING:
            return [RequestFailed(request_id, "its logits are invalid", FailureCause.MODEL)]
        if request.prompt_token_ids[0] == BANNING:
            return [RequestFailed(request_id, "every token is banned", FailureCause.PARAMETERS)]
        if request.prompt_token_ids[0] == OFF_GRAMMAR:
            return [RequestFailed(request_id, "its grammar is too slow", FailureCause.GRAMMAR)]
        done += 1
        is_last = done == request.params.max_new_tokens
        if not is_last:
            self._requests[request_id] = (request, done)
        return [
            TokenOutput(
                request_id=request_id,
                sequence=index,
                token_id=done,
                text=chr(ord("a") + (done - 1) % 26),
                logprob=-0.5 if request.params.logprobs else None,
                finish_reason=FinishReason.LENGTH if is_last else None,
            )
            for index in range(request.params.num_return_sequences)
            if index >= len(request.generated) or done > len(request.generated[index])
        ]
