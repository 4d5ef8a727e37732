"""The exit codes of `falconer batch`, with a small service."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from falconer import cli
from tests.falconer.job_service import job_service

BATCH = {
    "id": "b1",
    "endpoint": "/v1/completions",
    "completion_window": "24h",
    "input_file_id": "file-1",
    "created_at": 1,
    "expires_at": 2,
}


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("cancelled", 1), ("expired", 1)])
def test_a_batch_without_lines_succeeds_only_if_it_is_completed(
    status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a batch that was cancelled before the service had read its file."""
    monkeypatch.chdir(tmp_path)
    with job_service() as service:
        service.job = BATCH | {"status": status}
        result = CliRunner().invoke(cli.app, ["batch", "wait", "b1", "--url", service.url])
    assert result.exit_code == code, result.output
