"""A process that converts and compiles grammars of clients, which may crash it or never end.

It reads a line of JSON with the tokenizer, then one with the fields of each StructuredOutputs. It
answers these with the reason why they cannot be used, or an empty text, and their grammar. A
grammar that takes too much time or memory ends the process.
"""

import json
import resource
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from shared.request.limits import (
    GRAMMAR_MEMORY_BYTES,
    GRAMMAR_STACK_BYTES,
    MAX_GRAMMAR_CPU_S,
    MAX_MASK_ITEMS,
)
from shared.request.structured_outputs import StructuredOutputs


def main() -> None:
    tokenizer = LLTokenizer(json.loads(sys.stdin.readline()))
    limit(resource.RLIMIT_STACK, GRAMMAR_STACK_BYTES)
    limit(resource.RLIMIT_AS, GRAMMAR_MEMORY_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    print(json.dumps(("", "")), flush=True)
    for line in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + MAX_GRAMMAR_CPU_S)
        outputs = StructuredOutputs.model_validate(json.loads(line))
        print(json.dumps(convert(tokenizer, outputs)), flush=True)


def limit(what: int, value: int) -> None:
    """Lower a soft limit of this process."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value, hard))


def convert(tokenizer: LLTokenizer, outputs: StructuredOutputs) -> tuple[str, str]:
    """Return the reason of `why_unusable` and the grammar; either is empty."""
    try:
        grammar = outputs.to_grammar()
    except ValueError as error:
        return str(error), ""
    reason = why_unusable(tokenizer, grammar)
    return reason, "" if reason else grammar


def why_unusable(tokenizer: LLTokenizer, grammar: str) -> str:
    """Return llguidance's reason, or an empty text if a first token is possible."""
    limits = LLParserLimits(step_max_items=MAX_MASK_ITEMS, verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


if __name__ == "__main__":
    main()
