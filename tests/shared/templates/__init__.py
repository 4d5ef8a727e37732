"""Chat templates in the shapes that models on the hub have, written for these tests."""

from tests.shared.templates.instruct import INSTRUCT
from tests.shared.templates.plain import PLAIN
from tests.shared.templates.tools import TOOLS

__all__ = ["TEMPLATES"]

TEMPLATES: dict[str, str] = PLAIN | INSTRUCT | TOOLS
