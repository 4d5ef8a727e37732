"""Make imports of the service's packages fail, as on a machine with only the engine's packages.

Loaded as a plugin of pytest (`-p`), or imported before other modules.
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

# Python treats a module that is None as missing.
sys.modules |= dict.fromkeys(ABSENT)
