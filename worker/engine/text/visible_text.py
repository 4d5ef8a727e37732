"""The text of a sequence's new tokens, and the stop string or stop token that ends it."""

from collections.abc import Iterable, Sequence

from worker.engine.sampling_params import SamplingParams
from worker.engine.text.detokenizer import Detokenizer, StopStrings, TokenBytes


class VisibleText:
    """Convert the new tokens of one sequence to the text that its client gets.

    By default a stop string stays in the text and may begin in the context, as in transformers.
    Without `include_stop` only new text is searched, and the text ends before the stop string or
    the stop token, as OpenAI defines it: text that may begin a stop string is held back.
    """

    def __init__(
        self, token_bytes: TokenBytes, params: SamplingParams, context: Sequence[int]
    ) -> None:
        included, hidden = params.stop_strings, ()
        if not params.include_stop:
            included, hidden = hidden, included
        self._detokenizer = Detokenizer(token_bytes, context)
        self._included = StopStrings(token_bytes, included, context)
        self._hidden = StopSearch(hidden)
        self._has_stop_strings = bool(params.stop_strings)
        self._stop_token_ids = frozenset(params.eos_token_ids)
        self._include_stop = params.include_stop
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that is certain by now; `is_stopped` says whether the sequence ends."""
        is_stop_token = token_id in self._stop_token_ids
        is_hidden = is_stop_token and not self._include_stop
        text = "" if is_hidden else self._detokenizer.push(token_id)
        self.is_stopped = is_stop_token
        if self._has_stop_strings:
            text = self._hidden.push(text)
            self.is_stopped |= self._included.push(token_id) or self._hidden.is_found
        return text

    def flush(self) -> str:
        """Return the rest of the text. Call it once, at the end."""
        return self._hidden.push(self._detokenizer.flush()) + self._hidden.flush()


class StopSearch:
    """Pass text on up to the first stop string; hold back what may begin one."""

    def __init__(self, stop_strings: Iterable[str]) -> None:
        self._matchers = [PrefixMatcher(stop_string) for stop_string in stop_strings]
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Return the text that certainly precedes the stop string."""
        if self.is_found or not self._matchers:
            return "" if self.is_found else text
        held = self._held + text
        for position, character in enumerate(text, len(self._held) + 1):
            matched = [len(m.text) for m in self._matchers if m.push(character)]
            if matched:
                self.is_found, self._held = True, ""
                return held[: position - max(matched)]
        num_held = max(matcher.length for matcher in self._matchers)
        end = len(held) - num_held
        self._held = held[end:]
        return held[:end]

    def flush(self) -> str:
        """Return the text that was held back and turned out to begin no stop string."""
        text, self._held = self._held, ""
        return text


class PrefixMatcher:
    """Follow how much of a text's end begins `text` (Knuth, Morris and Pratt, 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.length = 0  # of the longest beginning of `text` that ends the text read so far
        # By length - 1: the next shorter beginning that ends there too; up to the longest so far.
        self._shorter = [0]

    def push(self, character: str) -> bool:
        """Read one character; return whether it completes `text`."""
        self.length = self._continued(self.length, character)
        if self.length > len(self._shorter):
            self._shorter.append(self._continued(self._shorter[-1], character))
        return self.length == len(self.text)

    def _continued(self, length: int, character: str) -> int:
        """Return the length of the longest beginning that ends with one more character."""
        while length and self.text[length] != character:
            length = self._shorter[length - 1]
        return length + (self.text[length] == character)
