"""Decode in steps of fixed shapes: on a GPU, CUDA graphs replay them without launches by the host.

A step of n rows runs in the smallest bucket with room for n. Rows of padding read and write a block
that no sequence holds. All buckets share their buffers, as in nano-vllm and vLLM.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.execution.packed_batch import PackedStep
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure, take_rows
from worker.engine.sampling.sampler import sample_tokens
from worker.engine.sampling.static_sampler import SamplingInputs, best_tokens, sampled_tokens
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence import Sequence
from worker.model.device_map import current_device
from worker.model.kv_cache import AttentionMetadata

Call = Callable[[], None]
Capture = Callable[[Call], Call]  # returns what repeats a call on the same tensors

_NUM_COLUMNS = 7


def run_eagerly(call: Call) -> Call:
    """Capture nothing: a call repeats itself. For devices without graphs, and for tests."""
    return call


def bucket_sizes(max_rows: int) -> list[int]:
    """Return the rows of the buckets, ascending; less than half of a step is padding."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, max_rows, 32)]
    return [*(size for size in sizes if size < max_rows), max_rows]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of a step: parts of one tensor, so that one copy fills them."""

    token_ids: torch.Tensor  # int64 [rows]
    positions: torch.Tensor  # int64 [rows]
    slots: torch.Tensor  # int64 [rows]: where the KV cache takes the token
    sampling: SamplingInputs
    block_tables: torch.Tensor  # int64 [rows, max_blocks]

    @classmethod
    def of(cls, memory: torch.Tensor, num_rows: int) -> "StepInputs":
        """View int64 `memory` of `size(num_rows, max_blocks)` elements."""
        columns = memory[: _NUM_COLUMNS * num_rows].view(_NUM_COLUMNS, num_rows)
        token_ids, positions, slots, *_ = columns
        temperature, top_k, top_p, uniform = columns[3:].view(torch.float64)
        sampling = SamplingInputs(temperature, top_k, top_p, uniform)
        tables = memory[_NUM_COLUMNS * num_rows :].view(num_rows, -1)
        return cls(token_ids, positions, slots, sampling, tables)

    @staticmethod
    def size(num_rows: int, max_blocks: int) -> int:
        return num_rows * (_NUM_COLUMNS + max_blocks)

    def fill(self, step: PackedStep, *, block_size: int, padding_block: int) -> None:
        """Write a step of as many rows or fewer, on the host; the other rows become padding."""
        num_rows, tables = len(step.token_ids), step.block_tables()
        token_ids, positions = self.token_ids.numpy(), self.positions.numpy()
        own_tables, slots = self.block_tables.numpy(), self.slots.numpy()
        token_ids[:num_rows], token_ids[num_rows:] = step.token_ids, 0
        positions[:num_rows], positions[num_rows:] = step.positions, 0
        own_tables.fill(padding_block)
        own_tables[:num_rows, : tables.shape[1]] = tables
        blocks = own_tables[np.arange(len(slots)), positions // block_size]
        slots[:] = blocks * block_size + positions % block_size


@dataclass(frozen=True, slots=True)
class Bucket:
    """The captured calls of one number of rows, and the tensors of both."""

    memory: torch.Tensor  # int64: its views are the inputs
    logits: torch.Tensor  # float32 [rows, vocab]
    results: torch.Tensor  # int64 [2, rows]: tokens; 1 where the host must sample
    decode: Call  # inputs to logits and best tokens
    sample: Call  # logits to sampled tokens

    @property
    def num_rows(self) -> int:
        return len(self.logits)


@dataclass(frozen=True, slots=True)
class DecodedStep:
    """A step that the device has begun; reading its tokens waits for it."""

    sequences: list[Sequence]
    logits: torch.Tensor  # float32 [num_rows, vocab], until the next step
    results: torch.Tensor  # int64 [2, bucket]

    def tokens(self) -> list[SampledToken | SamplingFailure]:
        """Return the next token of each row; the host samples rows that the device cannot."""
        tokens, is_open = self.results.tolist()
        sampled: list[SampledToken | SamplingFailure] = [
            SampledToken(token) for token in tokens[: len(self.sequences)]
        ]
        open_rows = [row for row, s in enumerate(self.sequences) if is_open[row] or not _served(s)]
        if open_rows:
            sequences = [self.sequences[row] for row in open_rows]
            others = sample_tokens(take_rows(self.logits, open_rows), sequences)
            for row, token in zip(open_rows, others, strict=True):
                sampled[row] = token
        return sampled


def _served(sequence: Sequence) -> bool:
    return sequence.pipeline.takes_best or sequence.pipeline.samples_plainly


def _fits(chunk: Chunk) -> bool:
    return chunk.group.num_rows == 1 and chunk.sequence.adapter is None


class StaticDecoder:
    """The buckets of a runner on one device, whose KV cache has a block for padding."""

    def __init__(self, runner: ModelRunner, max_rows: int) -> None:
        """Allocate the buffers; `add_buckets` makes the buckets."""
        [self._kv_cache] = runner.kv_caches
        self._runner = runner
        self._padding_block = runner.num_blocks  # the first that no sequence holds
        device, config = self._kv_cache.keys.device, runner.model.config
        self._device = device
        most_blocks = -(-config.context_length // runner.block_size)
        self._max_blocks = min(most_blocks, runner.num_blocks)
        self._max_rows = max_rows
        self._buckets: list[Bucket] = []  # by ascending rows
        with torch.inference_mode():
            size = StepInputs.size(max_rows, self._max_blocks)
            self._memory = torch.zeros(size, dtype=torch.int64, device=device)
            self._logits = torch.zeros(max_rows, config.vocab_size, device=device)
            self._results = torch.zeros(2 * max_rows, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def add_buckets(self, capture: Capture) -> Iterator[int]:
        """Capture the buckets, largest first: the others take its memory. Yields their rows.

        A step of few rows runs in a larger bucket if the smaller is missing.
        """
        for num_rows in reversed(bucket_sizes(self._max_rows)):
            self._buckets.insert(0, self._capture(num_rows, capture))
            yield num_rows

    def _capture(self, num_rows: int, capture: Capture) -> Bucket:
        memory = self._memory[: StepInputs.size(num_rows, self._max_blocks)]
        logits, results = self._logits[:num_rows], self._results[: 2 * num_rows].view(2, num_rows)
        inputs = StepInputs.of(memory, num_rows)

        def decode() -> None:
            self._compute_logits(inputs, logits)
            best_tokens(logits, *results)

        def sample() -> None:
            sampled_tokens(logits, inputs.sampling, *results)

        return Bucket(memory, logits, results, capture(decode), capture(sample))

    def _compute_logits(self, inputs: StepInputs, logits: torch.Tensor) -> None:
        num_rows, block_size = len(logits), self._kv_cache.block_size
        metadata = AttentionMetadata(
            cu_seqlens_q=list(range(num_rows + 1)),
            context_lens=[self._max_blocks * block_size] * num_rows,
            slot_mapping=inputs.slots,
            block_tables=inputs.block_tables,
            fixed_lens=(inputs.positions + 1).int(),
        )
        model = self._runner.model
        hidden_states = model(inputs.token_ids, inputs.positions, [self._kv_cache], metadata)
        logits.copy_(model.lm_head(hidden_states))

    @torch.inference_mode()
    def decode(self, plan: StepPlan) -> DecodedStep | None:
        """Begin a step if all its chunks decode; None leaves the step to the runner.

        Prompts, drafts, beams and adapters do not fit the shapes.
        """
        if not plan.only_decodes or not all(map(_fits, plan.chunks)):
            return None
        if len(plan.chunks) > self.max_rows:
            return None
        sequences = [chunk.sequence for chunk in plan.chunks]
        with current_device(self._device):
            self._kv_cache.copy_blocks(plan.block_copies)
            bucket = self.launch(PackedStep.of(plan, self._runner.block_size), sequences)
        return DecodedStep(sequences, bucket.logits[: len(sequences)], bucket.results)

    @property
    def max_rows(self) -> int:
        return self._buckets[-1].num_rows if self._buckets else 0

    @torch.inference_mode()
    def launch(self, step: PackedStep, sequences: list[Sequence]) -> Bucket:
        """Begin a step of one token for each of up to `max_rows` rows; return what it writes to.

        Samples for the `sequences`, which may be absent.
        """
        bucket = next(b for b in self._buckets if b.num_rows >= len(step.token_ids))
        with current_device(self._device):
            samples = any(sequence.pipeline.samples_plainly for sequence in sequences)
            self._upload(bucket, step, sequences if samples else [])
            bucket.decode()
            if samples:
                bucket.sample()
        return bucket

    def _upload(self, bucket: Bucket, step: PackedStep, sequences: list[Sequence]) -> None:
        """Copy the inputs of a step at once; torch keeps pinned memory until it is copied."""
        pinned = self._device.type == "cuda"
        memory = torch.empty(bucket.memory.shape, dtype=torch.int64, pin_memory=pinned)
        inputs = StepInputs.of(memory, bucket.num_rows)
        inputs.fill(step, block_size=self._kv_cache.block_size, padding_block=self._padding_block)
        if sequences:
            inputs.sampling.fill(sequences)
        bucket.memory.copy_(memory, non_blocking=True)
