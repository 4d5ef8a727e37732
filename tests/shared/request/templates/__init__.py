"""Chat templates in the shapes that models on the hub have, written for these tests."""

from tests.shared.request.templates.instruct import INSTRUCT
from tests.shared.request.templates.plain import PLAIN
from tests.shared.request.templates.tools import TOOLS

__all__ = ["TEMPLATES"]

TEMPLATES: dict[str, str] = PLAIN | INSTRUCT | TOOLS
