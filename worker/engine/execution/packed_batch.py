"""Pack the chunks of a step end to end, without padding, as numpy arrays for any runner."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from worker.engine.config import EngineConfig
from worker.engine.scheduling.step_plan import Chunk, StepPlan

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]


WARM_UP_ROWS = (1, 2)  # libraries compute one row and several in different ways
WARM_UP_TOKENS = 256  # a GPU has other kernels for a prompt's products and its attention


@dataclass(frozen=True, slots=True)
class PackedStep:
    """One step of `num_seqs` chunks and `num_tokens` new tokens.

    Chunk i has the tokens `cu_seqlens_q[i]:cu_seqlens_q[i+1]`. The blocks of its context are
    `block_indices[block_begins[i]:block_begins[i+1]]`.
    """

    token_ids: Int64s  # [num_tokens]
    positions: Int64s  # [num_tokens], in its own sequence
    sampled: Int64s  # [n]: the packed tokens after which a token is scored or sampled
    past_lens: Int32s  # [num_seqs], tokens in the cache before this step
    cu_seqlens_q: Int32s  # [num_seqs + 1]
    block_indices: Int32s
    block_begins: Int32s  # [num_seqs + 1]
    adapters: list[str | None]  # [num_seqs], names; None: the model itself

    @classmethod
    def of(cls, plan: StepPlan, block_size: int) -> "PackedStep":
        if plan.only_decodes:
            return cls._of_one_token_each(plan.chunks, block_size)
        chunks = plan.chunks
        starts = np.array([chunk.start for chunk in chunks], dtype=np.int32)
        lengths = np.array([chunk.num_tokens for chunk in chunks], dtype=np.int32)
        tables = [c.sequence.block_table[: -(-c.context_len // block_size)] for c in chunks]
        cu_seqlens_q = _cumulative(lengths)
        offsets = np.repeat(starts - cu_seqlens_q[:-1], lengths)
        return cls(
            token_ids=_concatenated([chunk.token_ids for chunk in chunks]).astype(np.int64),
            positions=np.arange(cu_seqlens_q[-1]) + offsets,
            sampled=_indices_with_logits(cu_seqlens_q, chunks),
            past_lens=starts,
            cu_seqlens_q=cu_seqlens_q,
            block_indices=_joined(tables),
            block_begins=_cumulative(np.array([len(table) for table in tables], dtype=np.int32)),
            adapters=[chunk.sequence.adapter for chunk in chunks],
        )

    @classmethod
    def _of_one_token_each(cls, chunks: Sequence[Chunk], block_size: int) -> "PackedStep":
        """Pack chunks of one token that is sampled after: what `of` returns, in less time."""
        starts = np.array([chunk.start for chunk in chunks])
        tables = [c.sequence.block_table[: c.start // block_size + 1] for c in chunks]
        return cls(
            token_ids=np.array([chunk.sequence.token_ids[chunk.start] for chunk in chunks]),
            positions=starts,
            sampled=np.arange(len(chunks)),
            past_lens=starts.astype(np.int32),
            cu_seqlens_q=np.arange(len(chunks) + 1, dtype=np.int32),
            block_indices=_joined(tables),
            block_begins=_cumulative(starts // block_size + 1),
            adapters=[chunk.sequence.request.adapter for chunk in chunks],
        )

    @classmethod
    def on_shared_blocks(
        cls, starts: list[int], lengths: list[int], block_size: int
    ) -> "PackedStep":
        """Make a step for warm-up and measurement: sequences of tokens 0, all on blocks from 0 on.

        Sequence i has `starts[i]` tokens before the step and `lengths[i]` in it.
        """
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        counts = [-(-end // block_size) for end in ends]
        cu_seqlens_q = _cumulative(np.array(lengths, dtype=np.int32))
        return cls(
            token_ids=np.zeros(sum(lengths), dtype=np.int64),
            positions=np.concatenate([np.arange(*span) for span in zip(starts, ends, strict=True)]),
            sampled=cu_seqlens_q[1:].astype(np.int64) - 1,
            past_lens=np.array(starts, dtype=np.int32),
            cu_seqlens_q=cu_seqlens_q,
            block_indices=_concatenated([list(range(count)) for count in counts]),
            block_begins=_cumulative(np.array(counts, dtype=np.int32)),
            adapters=[None] * len(lengths),
        )

    @property
    def context_lens(self) -> Int32s:
        """Return the tokens of each sequence in the KV cache after this step, int32 [num_seqs]."""
        lengths: Int32s = self.past_lens + np.diff(self.cu_seqlens_q)
        return lengths

    def chunk_indices(self) -> Int64s:
        """Return the index of the chunk of each packed token, int64 [num_tokens]."""
        return np.repeat(np.arange(len(self.past_lens)), np.diff(self.cu_seqlens_q))

    def adapter_tokens(self) -> dict[str, Int64s]:
        """Return the packed tokens of each adapter, int64 [n], ascending."""
        chunks: dict[str, list[int]] = {}
        for chunk, name in enumerate(self.adapters):
            if name is not None:
                chunks.setdefault(name, []).append(chunk)
        chunk_indices = self.chunk_indices()
        return {name: np.flatnonzero(np.isin(chunk_indices, own)) for name, own in chunks.items()}

    def block_tables(self) -> Int64s:
        """Return the blocks of each chunk, int64 [num_seqs, max_blocks], padded with block 0."""
        lengths = np.diff(self.block_begins)
        tables = np.zeros((len(lengths), lengths.max()), dtype=np.int64)
        tables[np.arange(lengths.max()) < lengths[:, None]] = self.block_indices
        return tables


def warm_up_steps(device_type: str, config: EngineConfig, num_blocks: int) -> list[PackedStep]:
    """Make steps that load a device's kernels; their tokens belong to no sequence.

    On a GPU, libraries choose kernels by the number of rows and load each at its first use, in tens
    of milliseconds. So its steps have 1, 2, 4, … `max_rows` rows, then one has a chunk of a prompt
    and one `max_step_tokens`, as far as the KV cache goes.
    """
    block_size, num_slots = config.block_size, num_blocks * config.block_size
    counts, chunks = list(WARM_UP_ROWS), []
    if device_type == "cuda":
        powers = (2**exponent for exponent in range(config.max_rows.bit_length()))
        counts = sorted({*powers, config.max_rows})
        chunks = [min(n, num_slots) for n in (WARM_UP_TOKENS, config.max_step_tokens)]
    decoding = [PackedStep.on_shared_blocks([0] * n, [1] * n, block_size) for n in counts]
    prompts = [PackedStep.on_shared_blocks([0], [n], block_size) for n in chunks]
    return decoding + prompts


def _indices_with_logits(cu_seqlens_q: Int32s, chunks: Sequence[Chunk]) -> Int64s:
    """Return the packed tokens of each chunk that score the prompt, then those to sample after."""
    bounds = zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), chunks, strict=True)
    spans = (
        span
        for start, end, chunk in bounds
        for span in (range(start, start + chunk.num_scored), range(end - chunk.num_sampled, end))
    )
    return np.fromiter(chain.from_iterable(spans), dtype=np.int64)


def _concatenated(lists: list[list[int]]) -> Int32s:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int32)


def _joined(tables: "list[array[int]]") -> Int32s:
    """Return the blocks of all tables, copied as bytes: a long context has many."""
    return np.frombuffer(bytearray().join(tables), dtype=np.int32)


def _cumulative(lengths: Int32s | Int64s) -> Int32s:
    bounds = np.zeros(len(lengths) + 1, dtype=np.int32)
    lengths.cumsum(out=bounds[1:])
    return bounds
