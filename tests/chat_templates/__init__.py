"""Chat templates in the shapes that models on the hub have, written for these tests."""

from tests.chat_templates.instruct import INSTRUCT
from tests.chat_templates.plain import PLAIN
from tests.chat_templates.tools import TOOLS

__all__ = ["TEMPLATES"]

TEMPLATES: dict[str, str] = PLAIN | INSTRUCT | TOOLS
