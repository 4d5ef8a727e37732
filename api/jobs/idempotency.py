"""Digest an Idempotency-Key and the body that it belongs to; each owner has its own keys."""

from hashlib import sha256

import msgspec

from api.schemas import ChatRequest
from shared.queue.enqueued import IdempotencyKey


def digest_key(
    request: ChatRequest, idempotency_key: str | None, owner: str | None
) -> IdempotencyKey | None:
    """Digest the key and the fields of the request; their order and spelling do not matter.

    `metadata` is left out: it changes nothing that the job computes. Each owner has its own keys.
    """
    fields = request.model_dump(exclude_unset=True, exclude={"metadata"})
    return digest_fields(fields, idempotency_key, owner)


def digest_fields(
    fields: object, idempotency_key: str | None, owner: str | None
) -> IdempotencyKey | None:
    """Digest the key and what its request asks for; None without a key."""
    if idempotency_key is None:
        return None
    body = msgspec.json.encode(fields, order="deterministic")
    return IdempotencyKey(
        sha256(owned_key(idempotency_key, owner).encode()).hexdigest(),
        body_digest=sha256(body).hexdigest(),
    )


def owned_key(idempotency_key: str, owner: str | None) -> str:
    """Return the key apart from the same key of other owners; no header has a line break."""
    return idempotency_key if owner is None else f"{owner}\n{idempotency_key}"
