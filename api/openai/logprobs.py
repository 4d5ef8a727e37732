"""Log-probabilities in the two shapes of OpenAI; for prompts also in vLLM's."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from api.openai.answers import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

BANNED = -9999.0  # OpenAI's value for a token without a finite log-probability
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log-probability, and the likeliest tokens in its place with theirs."""

    token_id: int
    logprob: float | None  # None for the first token of a prompt, and where it is undefined
    top: dict[int, float]  # best first


def scored_tokens(
    token_ids: Sequence[int],
    logprobs: Sequence[float | None] | None,
    top_logprobs: Sequence[dict[int, float]] | None,
) -> list[ScoredToken]:
    count = len(token_ids)
    values = logprobs or [None] * count
    tops = top_logprobs or [{}] * count
    return [ScoredToken(*parts) for parts in zip(token_ids, values, tops, strict=True)]


def scored_prompt(
    token_ids: Sequence[int],
    logprobs: Sequence[float] | None,
    top_logprobs: Sequence[dict[int, float]] | None,
) -> list[ScoredToken]:
    """Return the tokens of a prompt; the first token has no score."""
    tops = [{}, *top_logprobs] if top_logprobs else None
    return scored_tokens(token_ids, [None, *(logprobs or ())], tops)


class TokenTexts:
    """The text and the bytes of each token of a byte-level tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        """Write tokens as text, or as `token_id:N` if `as_ids`."""
        self._tokenizer = tokenizer
        self._as_ids = as_ids
        self._added = tokenizer.get_added_tokens_decoder()
        others = (byte for byte in range(256) if byte not in PRINTABLE)
        self._bytes = {chr(byte): byte for byte in PRINTABLE}
        self._bytes |= {chr(0x100 + index): byte for index, byte in enumerate(others)}

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token, of a special one its name."""
        if token_id in self._added:
            return str(self._added[token_id].content).encode()
        token = self._tokenizer.id_to_token(token_id) or ""
        if all(character in self._bytes for character in token):
            return bytes(self._bytes[character] for character in token)
        return token.encode()

    def visible_bytes_of(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to a text; special tokens add none."""
        token = self._added.get(token_id)
        return b"" if token is not None and token.special else self.bytes_of(token_id)

    def text_of(self, token_id: int) -> str:
        """Return the text; bytes that are no text are written as in `bytes:\\xe2\\x80`."""
        if self._as_ids:
            return f"token_id:{token_id}"
        data = self.bytes_of(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokens: Sequence[ScoredToken], texts: TokenTexts) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=texts.text_of(token.token_id),
                logprob=finite(token.logprob),
                bytes=list(texts.bytes_of(token.token_id)),
                top_logprobs=[
                    TopLogprob(
                        token=texts.text_of(other),
                        logprob=logprob,
                        bytes=list(texts.bytes_of(other)),
                    )
                    for other, logprob in token.top.items()
                ],
            )
            for token in tokens
        ]
    )


class CompletionLogprobsWriter:
    """Write the log-probabilities of one choice, whose text may come in parts."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._offset = 0  # of the next token in the text of the choice
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
        """Return the entries of the next tokens."""
        return CompletionLogprobs(
            tokens=[self._texts.text_of(token.token_id) for token in tokens],
            token_logprobs=[
                None if token.logprob is None else finite(token.logprob) for token in tokens
            ],
            top_logprobs=[self._top(token) for token in tokens],
            text_offset=[self._offset_of(token.token_id) for token in tokens],
        )

    def _top(self, token: ScoredToken) -> dict[str, float] | None:
        """Return the likeliest tokens and the token itself, as OpenAI does."""
        if token.logprob is None:
            return None
        entries = {self._texts.text_of(other): logprob for other, logprob in token.top.items()}
        return entries | {self._texts.text_of(token.token_id): finite(token.logprob)}

    def _offset_of(self, token_id: int) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(self._texts.visible_bytes_of(token_id)))
        return offset


def prompt_logprobs(
    tokens: Sequence[ScoredToken], texts: TokenTexts
) -> list[dict[str, Any] | None]:
    """Return vLLM's shape: by token id, with rank and text; None for the first token."""
    return [None if token.logprob is None else ranked(token, texts) for token in tokens]


def ranked(token: ScoredToken, texts: TokenTexts) -> dict[str, Any]:
    """Return the token and the likeliest tokens; lower ranks are not known."""
    ranks: dict[int, int | None] = {other: rank for rank, other in enumerate(token.top, 1)}
    logprobs = {token.token_id: finite(token.logprob)} | token.top
    return {
        str(other): {
            "logprob": logprob,
            "rank": ranks.get(other),
            "decoded_token": texts.text_of(other),
        }
        for other, logprob in logprobs.items()
    }


def finite(logprob: float | None) -> float:
    return BANNED if logprob is None else max(logprob, BANNED)
