"""Token ids to text, one token at a time: UTF-8 safe, with stop strings across token borders.

In byte-level BPE every token stands for bytes, and the text of a sequence is the UTF-8 of its
tokens' bytes. An incremental UTF-8 decoder is therefore exact, at a constant cost per token.
"""

import codecs
import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

_MAX_UTF8_BYTES = 4


class TokenBytes:
    """The bytes that each token of a byte-level tokenizer stands for.

    Raises ValueError for another kind of tokenizer: every Falcon has a byte-level one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        decoder = tokenizer.decoder
        kind = None if decoder is None else json.loads(decoder.__getstate__()).get("type")
        if kind != "ByteLevel":
            raise ValueError(f"the tokenizer's decoder must be ByteLevel, not {kind}")
        self._tokenizer = tokenizer
        self._to_bytes = _latin1_of_alphabet()
        self._added = tokenizer.get_added_tokens_decoder()
        self._special = {token_id for token_id, token in self._added.items() if token.special}
        self._known: dict[int, bytes] = {}
        self.texts = _Texts(self)

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token, of a special one its name; b"" for an unknown id."""
        if token_id not in self._known:
            self._known[token_id] = self._look_up(token_id)
        return self._known[token_id]

    def text_bytes_of(self, token_id: int) -> bytes:
        """Return the bytes that the token adds to the text; special tokens add none."""
        return b"" if token_id in self._special else self.bytes_of(token_id)

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:  # matched as text: its characters never stand for bytes
            return str(self._added[token_id].content).encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        try:
            return token.translate(self._to_bytes).encode("latin-1")
        except UnicodeEncodeError:  # a character stands for no byte
            return token.encode()


class _Texts(dict[int, str | None]):
    """The text that each token adds if its bytes are whole characters, else None."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        super().__init__()
        self._token_bytes = token_bytes

    def __missing__(self, token_id: int) -> str | None:
        try:
            text: str | None = self._token_bytes.text_bytes_of(token_id).decode()
        except UnicodeDecodeError:
            text = None
        self[token_id] = text
        return text


class Detokenizer:
    """Convert the tokens that follow `context` to text.

    All pieces and the last `flush()`, joined, are the text that decoding all tokens at once adds to
    the decoded context. Bytes that are not UTF-8 become U+FFFD as soon as that is certain.
    """

    def __init__(self, token_bytes: TokenBytes, context: Sequence[int]) -> None:
        self._token_bytes = token_bytes
        self._texts = token_bytes.texts
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # The context may end inside a character: the decoder must know its first bytes.
        self._decoder.decode(
            _tail(map(token_bytes.text_bytes_of, reversed(context)), _MAX_UTF8_BYTES)
        )
        self._is_inside_character = self._decoder.getstate()[0] != b""

    def push(self, token_id: int) -> str:
        """Return the text that is certain by now: "" while a character is incomplete."""
        text = self._texts[token_id]
        if text is None or self._is_inside_character:
            text = self._decoder.decode(self._token_bytes.text_bytes_of(token_id))
            self._is_inside_character = self._decoder.getstate()[0] != b""
        return text

    def flush(self) -> str:
        """Return the text of the bytes that are still held back. Call it once, at the end."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Detect the token that completes one of the stop strings.

    As in transformers' StopStringCriteria, the string may begin in the context, and the token may
    continue after it, but must hold its end. Special tokens count by their names.
    """

    def __init__(
        self, token_bytes: TokenBytes, stop_strings: Iterable[str], context: Sequence[int]
    ) -> None:
        self._token_bytes = token_bytes
        self._needles = [stop_string.encode() for stop_string in stop_strings]
        self._reach = max(map(len, self._needles), default=1) - 1
        self._tail = _tail(map(token_bytes.bytes_of, reversed(context)), self._reach)

    def push(self, token_id: int) -> bool:
        """Push the next token; return whether it completes a stop string."""
        if not self._needles:
            return False
        text = self._tail + self._token_bytes.bytes_of(token_id)
        num_old = len(self._tail)
        self._tail = _last(text, self._reach)
        return any(
            text.find(needle, max(0, num_old - len(needle) + 1)) >= 0 for needle in self._needles
        )


def _tail(pieces_from_the_end: Iterable[bytes], num_bytes: int) -> bytes:
    """Return the last `num_bytes` bytes of a text; its pieces come in reverse order."""
    tail = b""
    for piece in pieces_from_the_end:
        if len(tail) >= num_bytes:
            break
        tail = piece + tail
    return _last(tail, num_bytes)


def _last(data: bytes, num_bytes: int) -> bytes:
    return data[max(0, len(data) - num_bytes) :]


def _byte_alphabet() -> dict[int, str]:
    """Return GPT-2's character of each byte: itself if printable, the rest from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {byte: chr(byte) for byte in printable}
    return alphabet | {byte: chr(0x100 + index) for index, byte in enumerate(others)}


def _latin1_of_alphabet() -> dict[int, str]:
    """Return a table for `str.translate` that maps characters of bytes to Latin-1.

    Other characters become or stay such that Latin-1 lacks.
    """
    alphabet = {ord(character): chr(byte) for byte, character in _byte_alphabet().items()}
    return dict.fromkeys(range(0x100), "\uffff") | alphabet
