"""Fakes of the engine's heavy parts: a runner without a model, and a tokenizer of bytes.

FakeRunner has a paged cache of its own, and rejects a plan that the real runner would compute
wrongly.
"""

import zlib
from array import array
from collections.abc import Callable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from worker.engine import Engine, EngineConfig
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.model.config import ModelConfig

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 256
VOCAB_SIZE = 257


def byte_tokenizer() -> Tokenizer:
    """Return byte-level BPE without merges: token i is byte i, and 256 ends the text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [c for c in alphabet if ord(c) < 0x100]
    shifted = [c for c in alphabet if ord(c) >= 0x100]
    vocab = {character: ord(character) for character in printable}
    others = (byte for byte in range(256) if byte not in vocab.values())
    vocab |= dict(zip(shifted, others, strict=True))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return tokenizer


def hashed_letter(context: list[int]) -> int:
    """Return an ASCII letter that depends on every token of the context."""
    return ord("a") + zlib.crc32(array("q", context).tobytes()) % 26


def stutter(context: list[int]) -> int:
    """Return one of three letters by the last two tokens, so that the text soon repeats."""
    return ord("a") + zlib.crc32(array("q", context[-2:]).tobytes()) % 3


class FakeRunner:
    """A model that is a function: the next token is `next_token(context)`.

    A slot stores its token and a digest of the tokens before it and of the adapter, as keys and
    values depend on both. A plan that reads a slot of another sequence, a wrong prefix or a block
    that was not copied raises AssertionError.

    A context with `crash_token` makes the step raise; `nan_token` makes its logits NaN.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        next_token: Callable[[list[int]], int] = hashed_letter,
        crash_token: int | None = None,
        nan_token: int | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.plans: list[StepPlan] = []
        self._block_size = block_size
        self.next_token = next_token
        self._crash_token = crash_token
        self._nan_token = nan_token
        self._slots: dict[int, tuple[int, int] | None] = {}

    def forward(self, plan: StepPlan) -> torch.Tensor:
        assert plan.chunks, "an empty plan must not reach the model"
        self.plans.append(plan)
        for source, destination in plan.block_copies:
            self._copy(source, destination)
        for chunk in plan.chunks:
            self._write(chunk, digest=self._read(chunk, chunk.start))
        for chunk in plan.chunks:
            self._read(chunk, chunk.context_len)
        contexts = [_tokens(chunk)[: chunk.context_len] for chunk in plan.chunks]
        if any(self._crash_token in context for context in contexts):
            raise RuntimeError("the device gave up")
        rows = [
            self._logits(context[:length])
            for chunk, context in zip(plan.chunks, contexts, strict=True)
            for length in lengths_with_logits(chunk, len(context))
        ]
        return torch.stack(rows) if rows else torch.empty(0, VOCAB_SIZE)

    def _copy(self, source: int, destination: int) -> None:
        for offset in range(self._block_size):
            content = self._slots.get(source * self._block_size + offset)
            self._slots[destination * self._block_size + offset] = content

    def _write(self, chunk: Chunk, *, digest: int) -> None:
        for position, token_id in enumerate(chunk.token_ids, start=chunk.start):
            digest = hash((digest, token_id))
            self._slots[self._slot(chunk, position)] = (token_id, digest)

    def _read(self, chunk: Chunk, num_tokens: int) -> int:
        """Check the slots of the first `num_tokens`; return their digest."""
        digest = hash(chunk.sequence.adapter)
        for position, token_id in enumerate(_tokens(chunk)[:num_tokens]):
            digest = hash((digest, token_id))
            content = self._slots.get(self._slot(chunk, position))
            assert content == (token_id, digest), f"the slot of token {position} holds {content}"
        return digest

    def _slot(self, chunk: Chunk, position: int) -> int:
        block = chunk.sequence.block_table[position // self._block_size]
        assert 0 <= block < self.num_blocks
        return block * self._block_size + position % self._block_size

    def _logits(self, context: list[int]) -> torch.Tensor:
        if self._nan_token in context:
            return torch.full((VOCAB_SIZE,), torch.nan)
        logits = torch.zeros(VOCAB_SIZE)
        logits[self.next_token(context)] = 10.0
        return logits


def lengths_with_logits(chunk: Chunk, context_length: int) -> list[int]:
    """Return the lengths of the contexts whose next token is scored or sampled, in order."""
    scored = range(chunk.start + 1, chunk.start + 1 + chunk.num_scored)
    sampled = range(context_length - chunk.num_sampled + 1, context_length + 1)
    return [*scored, *sampled]


def _tokens(chunk: Chunk) -> list[int]:
    return [*chunk.sequence.token_ids, *chunk.drafts]


def engine_on_fake_runner(
    runner: FakeRunner | None = None,
    *,
    max_rows: int = 8,
    block_size: int = 4,
    max_step_tokens: int = 16,
    context_length: int = 2048,
    adapters: tuple[str, ...] = (),
    prompt_lookup_num_tokens: int | None = None,
) -> Engine:
    """Return an engine with `runner`, or with a FakeRunner of 64 blocks."""
    shape = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    model_config = ModelConfig.from_dict(
        {
            "model_type": "falcon",
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": context_length,
            **shape,
        }
    )
    return Engine(
        runner=runner or FakeRunner(block_size=block_size),
        tokenizer=byte_tokenizer(),
        model_config=model_config,
        config=EngineConfig(
            max_rows=max_rows,
            block_size=block_size,
            max_step_tokens=max_step_tokens,
            prompt_lookup_num_tokens=prompt_lookup_num_tokens,
        ),
        adapters=adapters,
    )
