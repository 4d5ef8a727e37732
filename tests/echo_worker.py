"""A model of letters and a worker that echoes prompts, for tests of the api without torch."""

import asyncio

from redis.asyncio import Redis
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from shared.protocol import (
    Batch,
    ChatJob,
    Delta,
    Failed,
    JobError,
    JobStatus,
    ModelCard,
    Succeeded,
    encode,
)
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from shared.results import ChatResult, SequenceResult, Usage

LEASE_MS = 60_000
FREE = FreeCapacity(rows=100, kv_tokens=1_000_000, running=0)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def letter_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: each byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer


def letter_card(chat_template: str | None = CHAT_TEMPLATE) -> ModelCard:
    """Return the card of a model with 2048 tokens of context and two adapters."""
    return ModelCard(
        name="letters",
        context_length=2048,
        vocab_size=257,
        eos_token_ids=[256],
        pad_token_id=256,
        bos_token_id=256,
        chat_template=chat_template,
        max_rows=8,
        max_kv_tokens=8192,
        max_num_beams=8,
        adapters=("tales", "verse"),
        template_tokens={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    )


class EchoWorker:
    """Answers each job with its prompt in capitals, one delta per word, unless it is `paused`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.paused = False
        self.seen: list[ChatJob] = []
        self.stopped: list[str] = []
        self._queue = JobQueue(redis, keys)
        self._log = TokenLog(redis, keys)
        self._running: dict[str, ClaimedJob] = {}

    async def run(self) -> None:
        while True:
            claim = await self._queue.claim("echo", FREE, lease_ms=LEASE_MS)
            for claimed in claim.jobs:
                self.seen.append(claimed.job)
                self._running[claimed.job.id] = claimed
            await self._stop_cancelled()
            if not self.paused:
                for claimed in list(self._running.values()):
                    await self._answer(claimed)
            await asyncio.sleep(0.005)

    async def _stop_cancelled(self) -> None:
        fencing_tokens = {id_: claimed.fencing_token for id_, claimed in self._running.items()}
        renewal = await self._queue.renew("echo", fencing_tokens, lease_ms=LEASE_MS)
        for job_id in renewal.cancelled:
            error = JobError(message="the job was cancelled", status_code=499)
            status = JobStatus.CANCELLED
            outcome = Failed(job_id=job_id, attempt=1, status=status, error=error)
            claimed = self._running.pop(job_id)
            await self._queue.finish(claimed, outcome, fencing_token=claimed.fencing_token)
            self.stopped.append(job_id)

    async def _answer(self, claimed: ClaimedJob) -> None:
        job = claimed.job
        del self._running[job.id]
        if "fail" in (job.prompt or ""):
            error = JobError(message="no room on the device", status_code=500)
            status = JobStatus.FAILED
            failed = Failed(job_id=job.id, attempt=1, status=status, error=error)
            await self._queue.finish(claimed, failed, fencing_token=claimed.fencing_token)
            return
        words = [f" {word.upper()}" for word in (job.prompt or "hello").split(" ")]
        for index, word in enumerate(words if job.stream else ()):
            await self._send(claimed, index, word)
        await self._queue.finish(claimed, finished(job, words), fencing_token=claimed.fencing_token)

    async def _send(self, claimed: ClaimedJob, index: int, word: str) -> None:
        """Append the delta twice, as a command that is repeated after a lost response."""
        delta = encode(Delta(text=word, token_ids=[index]))
        addition = (claimed.job.id, claimed.fencing_token, index, [delta])
        for _ in range(2):
            await self._log.append(claimed.worker_id, [addition])


def finished(job: ChatJob, words: list[str]) -> Succeeded:
    text = "".join(words)
    num_prompt = len(job.token_ids or ())
    result = ChatResult(
        result=(job.prompt or "") * job.return_full_text + text,
        id=job.id,
        sequences=[SequenceResult(text=text, finish_reason="stop", token_count=len(text))],
        usage=Usage(
            prompt_tokens=num_prompt,
            completion_tokens=len(text),
            total_tokens=num_prompt + len(text),
        ),
        seed=job.seed,
    )
    batch = Batch(mean_rows=1.0, max_rows=1)
    return Succeeded(
        job_id=job.id,
        attempt=1,
        result=result,
        batch=batch,
        queue_ms=1.0,
        run_ms=2.0,
        num_deltas=len(words) if job.stream else None,
    )
