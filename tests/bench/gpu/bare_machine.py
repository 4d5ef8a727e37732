"""As if this machine had the engine's packages alone: those of the service cannot be imported.

A plugin for pytest (`-p`), or imported before anything else.
"""

import sys

ABSENT = (
    "arq",
    "fastapi",
    "msgspec",
    "openvino",
    "pydantic",
    "pydantic_settings",
    "pytest_asyncio",
    "redis",
    "starlette",
    "structlog",
    "torchao",
)

# What Python takes for a package that is not there, whoever asks.
sys.modules |= dict.fromkeys(ABSENT)
