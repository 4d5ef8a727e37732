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
MAX_KNOWN = 1024  # usable grammars that need no second check, and as many refused grammars
MAX_KEPT_CHARS = 1000  # of the reason why a grammar is refused

Answer = tuple[str, str]  # the reason why a grammar cannot be used, or the grammar

TOO_EXPENSIVE = f"it takes more than {MAX_GRAMMAR_CPU_S} s or too much memory to compile"


class GrammarChecker:
    """Check grammars for one tokenizer, one at a time. The process starts with the first."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None  # ends the process
        # By digest, the latest last; with the reasons why grammars were refused.
        self._usable: OrderedDict[bytes, str] = OrderedDict()
        self._refused: OrderedDict[bytes, str] = OrderedDict()
        self._known_lock = Lock()  # of both, held for a moment
        self._lock = Lock()  # of the process

    def check(self, outputs: StructuredOutputs) -> None:
        """Raise BadRequest with field and reason if the grammar cannot be used.

        Blocks. Raises ServiceUnavailable if the process cannot run.
        """
        if self.is_known(outputs):
            return
        with self._lock:
            if not self.is_known(outputs):
                self._convert(outputs)

    def is_known(self, outputs: StructuredOutputs) -> bool:
        """Return whether `check` found the grammar usable lately; wait for no other check.

        Raises BadRequest if it was refused lately.
        """
        digest = _digest(outputs)
        with self._known_lock:
            if digest in self._usable:
                self._usable.move_to_end(digest)
                return True
            reason = self._refused.get(digest)
        if reason is not None:
            raise invalid_grammar(outputs, reason)
        return False

    def to_grammar(self, outputs: StructuredOutputs, *, is_checked: bool) -> str:
        """Return the grammar of llguidance, checked first unless the api did so.

        Blocks. Only the process converts GBNF. Raises as `check`.
        """
        if is_checked and not outputs.is_gbnf:
            return outputs.to_grammar()
        with self._lock:
            self.is_known(outputs)  # raises if it was refused
            return self._convert(outputs)

    def _convert(self, outputs: StructuredOutputs) -> str:
        reason, grammar = self._ask(_to_message(outputs))
        answers = self._refused if reason else self._usable
        with self._known_lock:
            answers[_digest(outputs)] = reason[:MAX_KEPT_CHARS]
            if len(answers) > MAX_KNOWN:
                answers.popitem(last=False)
        if reason:
            raise invalid_grammar(outputs, reason)
        return grammar

    def _ask(self, message: str) -> Answer:
        """Return the answer of the process; if it dies of the grammar, another one follows."""
        try:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = self._start()
            answer = _exchange(self._process, message)
        except TimeoutError:
            self._kill()
            raise _unavailable() from None
        if answer is None:
            self._kill()
            return TOO_EXPENSIVE, ""
        return answer

    def _kill(self) -> None:
        self._end()
        self._process = None

    def _start(self) -> "subprocess.Popen[str]":
        try:
            process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for its parent
            )
        except OSError as error:  # too many processes or files, or too little memory
            raise _unavailable() from error
        self._end = finalize(self, _end, process)  # at the latest with this checker
        if _exchange(process, json.dumps(self._tokenizer.to_str())) is None:
            self._end()
            raise _unavailable()
        return process


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable("grammars cannot be checked now", retry_after_s=1)


def _digest(outputs: StructuredOutputs) -> bytes:
    return sha256(_to_message(outputs).encode()).digest()


def _to_message(outputs: StructuredOutputs) -> str:
    return json.dumps(outputs.model_dump(exclude_unset=True))


def _exchange(process: "subprocess.Popen[str]", message: str) -> Answer | None:
    """Send a line of JSON and return the answer; None if the process dies. Raises TimeoutError."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(message + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(1000 * TIMEOUT_S):
        raise TimeoutError
    line = process.stdout.readline()
    if not line.endswith("\n"):
        return None
    reason, grammar = json.loads(line)
    return reason, grammar


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError), process:  # closes its pipes and waits
        pass
