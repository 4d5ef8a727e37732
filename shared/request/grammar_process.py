"""A process that compiles grammars of clients, which may crash it or never end.

It reads a line of JSON with the tokenizer, then one with each grammar, and answers each grammar
with the reason why it cannot be used, or with an empty text. A grammar that takes too much time or
memory ends the process.
"""

import json
import resource
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from shared.request.limits import GRAMMAR_MEMORY_BYTES, GRAMMAR_STACK_BYTES, MAX_GRAMMAR_CPU_S


def main() -> None:
    tokenizer = LLTokenizer(json.loads(sys.stdin.readline()))
    limit(resource.RLIMIT_STACK, GRAMMAR_STACK_BYTES)
    limit(resource.RLIMIT_AS, GRAMMAR_MEMORY_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    print(json.dumps(""), flush=True)
    for line in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + MAX_GRAMMAR_CPU_S)
        print(json.dumps(why_unusable(tokenizer, json.loads(line))), flush=True)


def limit(what: int, value: int) -> None:
    """Lower a soft limit of this process."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value, hard))


def why_unusable(tokenizer: LLTokenizer, grammar: str) -> str:
    """Return llguidance's reason, or an empty text if a first token is possible."""
    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


if __name__ == "__main__":
    main()
