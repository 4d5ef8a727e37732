"""Real calls of stock clients. `python -m tests.clients.stock URL` runs them on a service."""

from importlib.util import find_spec

from tests.clients.stock import (
    chat,
    completions,
    curl,
    errors,
    files,
    langchain,
    llm,
    responses,
)
from tests.clients.stock.calls import Call

__all__ = ["CALLS", "missing_program"]

MODULES = (completions, chat, responses, files, errors, curl, langchain, llm)
CALLS: list[Call] = [call for module in MODULES for call in module.calls.all]


def missing_program(client: str) -> str | None:
    """Return why the calls of a client cannot run in this environment; None if they can."""
    is_there = {
        "curl": curl.CURL is not None,
        "langchain-openai": find_spec("langchain_openai") is not None,
        "llm": find_spec("llm") is not None,
    }
    return None if is_there.get(client, True) else f"{client} is not installed"
