"""Compare decoding in CUDA graphs with decoding by launches, on one network."""

from typing import Any

from rich.table import Table

from bench.workloads import FIRST_WORD_ID
from worker.engine import (
    CudaGraphs,
    Engine,
    EngineConfig,
    Request,
    SamplingParams,
    TokenOutput,
)
from worker.engine.execution.cuda_graphs import capture_decoding
from worker.engine.execution.static_decoding import StaticDecoder, bucket_sizes, run_eagerly
from worker.engine.execution.torch_runner import ModelRunner

PROMPT_TOKENS, NEW_TOKENS = 16, 8
KINDS = {
    "greedy": SamplingParams(max_new_tokens=NEW_TOKENS),
    "top_k, top_p": SamplingParams(
        max_new_tokens=NEW_TOKENS, do_sample=True, top_k=50, top_p=0.95, temperature=0.8
    ),
}

Tokens = dict[str, list[int]]  # by request


def capture_or_repeat(
    runner: ModelRunner, config: EngineConfig, graphs: CudaGraphs = CudaGraphs.AUTO
) -> StaticDecoder | None:
    """Capture the decoding steps; a CPU repeats what a GPU would capture."""
    if runner.kv_caches[0].keys.is_cuda or graphs is CudaGraphs.OFF:
        return capture_decoding(runner, config, graphs)
    decoder = StaticDecoder(runner, config.max_rows)
    list(decoder.add_buckets(run_eagerly))
    return decoder


def compare_tokens(
    captured: Engine, launched: Engine, max_rows: int
) -> tuple[list[dict[str, Any]], Table]:
    """Return the share of equal tokens at each number of rows that a graph is captured for.

    Below 100 %, either the rounding of other products changed a near tie, or a graph is wrong: then
    few tokens are equal. Padding changes the rounding too.
    """
    table = Table("tokens in graphs", *KINDS, box=None)
    figures = []
    for num_rows in bucket_sizes(max_rows):
        shares = {
            kind: _equal_share(
                decode(captured, num_rows, params), decode(launched, num_rows, params)
            )
            for kind, params in KINDS.items()
        }
        table.add_row(f"{num_rows} rows", *(f"{share:.1%} equal" for share in shares.values()))
        figures.append({"num_rows": num_rows, "is_captured": captured.decoder is not None} | shares)
    return figures, table


def decode(engine: Engine, num_rows: int, params: SamplingParams) -> Tokens:
    """Decode prompts that differ in each token; return the tokens of each."""
    for row in range(num_rows):
        prompt = [FIRST_WORD_ID + (row * PROMPT_TOKENS + n) % 4096 for n in range(PROMPT_TOKENS)]
        engine.add(Request(request_id=str(row), prompt_token_ids=prompt, params=params))
    tokens: Tokens = {str(row): [] for row in range(num_rows)}
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, TokenOutput):
                tokens[output.request_id].append(output.token_id)
    return tokens


def _equal_share(tokens: Tokens, others: Tokens) -> float:
    pairs = [pair for row in tokens for pair in zip(tokens[row], others[row], strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)
