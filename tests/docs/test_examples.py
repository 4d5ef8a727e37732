"""The Python examples of the documentation run."""

import re

import pytest

from tests.docs.tables import ROOT

EXAMPLES = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_engine_page_print_text(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "concepts" / "engine.md").read_text()
    examples = EXAMPLES.findall(page)
    assert len(examples) == 2
    exec(compile("\n".join(examples), "engine.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    for line, prompt in zip(
        lines, ("Once upon a time", "The falcon", "One day a girl"), strict=False
    ):
        assert line.startswith(prompt)
        assert len(line) > len(prompt)
    assert len(lines) > 3  # the second example's text
