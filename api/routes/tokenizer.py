"""vLLM's routes of the tokenizer, and the version. The api answers them without a worker."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.http.body import read_request
from api.http.disconnect import ClientConnection
from api.http.errors import json_response
from api.jobs.redis_services import RETRY_AFTER_S, redis_timeout
from api.openai.completions.chat import as_known_role
from api.openai.tokenizer import (
    Detokenized,
    DetokenizeRequest,
    TokenizeRequest,
    TokenizerInfo,
    Tokens,
    Version,
)
from api.openapi import (
    DETOKENIZED,
    MODEL_ERRORS,
    TOKENIZER_ERRORS,
    TOKENIZER_INFO,
    TOKENS,
    VERSION,
    request_body,
)
from api.schemas import MAX_MODEL_NAME
from api.services import Services, services_of
from shared.errors import InvalidParameter, ServiceUnavailable
from shared.request.prompt import PromptEncoder
from shared.version import falconer_version

CHARS_PER_TOKEN = 4  # of a typical text, to decide about a thread

router = APIRouter()

ModelName = Annotated[
    str | None,
    Query(max_length=MAX_MODEL_NAME, description="Name of a model. Unset: the first one."),
]


@router.post(
    "/tokenize",
    summary="Tokenize",
    responses={200: TOKENS, **TOKENIZER_ERRORS},
    openapi_extra=request_body("TokenizeRequest"),
)
async def tokenize(request: Request) -> Response:
    """Return the token ids of a prompt or a conversation."""
    services = services_of(request)
    max_bytes = services.settings.max_body_bytes
    body = await read_request(request, TokenizeRequest, max_bytes, services.stopping)
    body.check()
    encoder = await current_encoder(services, body.model)
    text, add_special = body.prompt or "", body.messages is None
    if body.messages is not None:
        text = encoder.render(
            tuple(as_known_role(message).to_message() for message in body.messages),
            continue_final=body.continue_final_message,
            begin_answer=body.add_generation_prompt,
        )
    if body.add_special_tokens is not None:
        add_special = body.add_special_tokens
    work = partial(encoder.encode, text, add_special_tokens=add_special)
    client = ClientConnection(request.receive, services.stopping)
    ids = await services.tokenization.run(work, len(text), client)
    strings = None
    if body.return_token_strs:
        strings = [encoder.tokenizer.id_to_token(token_id) or "" for token_id in ids]
    return json_response(
        Tokens(
            count=len(ids),
            max_model_len=encoder.card.context_length,
            tokens=ids,
            token_strs=strings,
        )
    )


@router.post(
    "/detokenize",
    summary="Detokenize",
    responses={200: DETOKENIZED, **TOKENIZER_ERRORS},
    openapi_extra=request_body("DetokenizeRequest"),
)
async def detokenize(request: Request) -> Response:
    """Return the text of token ids."""
    services = services_of(request)
    max_bytes = services.settings.max_body_bytes
    body = await read_request(request, DetokenizeRequest, max_bytes, services.stopping)
    encoder = await current_encoder(services, body.model)
    for token_id in body.tokens:
        if encoder.tokenizer.id_to_token(token_id) is None:
            raise InvalidParameter(f"the tokenizer has no token {token_id}", field="tokens")
    work = partial(encoder.tokenizer.decode, body.tokens, skip_special_tokens=False)
    client = ClientConnection(request.receive, services.stopping)
    num_chars = CHARS_PER_TOKEN * len(body.tokens)
    return json_response(
        Detokenized(prompt=await services.tokenization.run(work, num_chars, client))
    )


@router.get("/tokenizer_info", summary="Tokenizer", responses={200: TOKENIZER_INFO, **MODEL_ERRORS})
async def tokenizer_info(request: Request, model: ModelName = None) -> Response:
    """Return the special tokens and the chat template."""
    encoder = await current_encoder(services_of(request), model)
    card, token_of = encoder.card, encoder.tokenizer.id_to_token
    return json_response(
        TokenizerInfo(
            bos_token=None if card.bos_token_id is None else token_of(card.bos_token_id),
            eos_token=token_of(card.eos_token_ids[0]) if card.eos_token_ids else None,
            pad_token=None if card.pad_token_id is None else token_of(card.pad_token_id),
            chat_template=card.chat_template,
            model_max_length=card.context_length,
        )
    )


@router.get("/version", summary="Version", responses={200: VERSION})
async def version() -> Response:
    """Return the version of this api."""
    return json_response(Version(falconer_version()))


async def current_encoder(services: Services, name: str | None) -> PromptEncoder:
    """Return tokenizer and chat template of the model that a request names.

    Raises ModelNotFound, and ServiceUnavailable until a worker has registered the model.
    """
    watcher = (await services.models.find(name)).watcher
    if watcher.current is None:
        async with redis_timeout():
            await watcher.refresh()
    model = watcher.current
    if model is None:
        raise ServiceUnavailable(
            "no worker has registered a readable model yet", retry_after_s=RETRY_AFTER_S
        )
    model.encoder.check_model(name)
    return model.encoder
