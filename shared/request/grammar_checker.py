"""Check grammars in a process of their own, before a job with them is accepted.

A small grammar can crash llguidance or keep it busy for hours, whatever its limits. Whatever passes
here compiles as quickly in the engine. The engine bounds the masks, which may grow with the text.
"""

import json
import select
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from threading import Lock
from weakref import finalize

from tokenizers import Tokenizer

from shared.errors import ServiceUnavailable
from shared.request.limits import MAX_GRAMMAR_CPU_S
from shared.request.structured_outputs import StructuredOutputs, invalid_grammar

COMMAND = (sys.executable, "-m", "shared.request.grammar_process")
TIMEOUT_S = 60.0  # of the wall clock, for a machine that is overloaded
MAX_KNOWN = 1024  # grammars that need no second check

Answer = tuple[str, str]  # the reason why a grammar cannot be used, or the grammar

TOO_EXPENSIVE = f"it takes more than {MAX_GRAMMAR_CPU_S} s or too much memory to compile"


class GrammarChecker:
    """Check grammars for one tokenizer, one at a time. The process starts with the first."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None  # ends the process
        self._known: OrderedDict[bytes, None] = OrderedDict()  # digests of usable grammars
        self._lock = Lock()

    def check(self, outputs: StructuredOutputs) -> None:
        """Raise BadRequest with field and reason if the grammar cannot be used.

        Blocks. Raises ServiceUnavailable if the process cannot run.
        """
        message = _to_message(outputs)
        digest = sha256(message.encode()).digest()
        with self._lock:
            if digest not in self._known:
                self._convert(outputs, message)
            self._known[digest] = None
            self._known.move_to_end(digest)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def to_grammar(self, outputs: StructuredOutputs, *, is_checked: bool) -> str:
        """Return the grammar of llguidance, checked first unless the api did so.

        Blocks. Only the process converts GBNF. Raises as `check`.
        """
        if is_checked and not outputs.is_gbnf:
            return outputs.to_grammar()
        with self._lock:
            return self._convert(outputs, _to_message(outputs))

    def _convert(self, outputs: StructuredOutputs, message: str) -> str:
        reason, grammar = self._ask(message)
        if reason:
            raise invalid_grammar(outputs, reason)
        return grammar

    def _ask(self, message: str) -> Answer:
        """Return the answer of the process; if it dies of the grammar, another one follows."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = self._start()
        answer = _exchange(self._process, message)
        if answer is None:
            self._end()
            self._process = None
            return TOO_EXPENSIVE, ""
        return answer

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for its parent
        )
        self._end = finalize(self, _end, process)  # at the latest with this checker
        if _exchange(process, json.dumps(self._tokenizer.to_str())) is None:
            self._end()
            raise ServiceUnavailable("grammars cannot be checked now", retry_after_s=1)
        return process


def _to_message(outputs: StructuredOutputs) -> str:
    return json.dumps(outputs.model_dump(exclude_unset=True))


def _exchange(process: "subprocess.Popen[str]", message: str) -> Answer | None:
    """Send a line of JSON and return the answer; None if the process dies, or takes too long."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(message + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    line = process.stdout.readline() if poll.poll(1000 * TIMEOUT_S) else ""
    if not line.endswith("\n"):
        return None
    reason, grammar = json.loads(line)
    return reason, grammar


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError), process:  # closes its pipes and waits
        pass
