"""The checkpoint of `bench.gpu` is written once, and an incomplete one is never used."""

from pathlib import Path
from typing import Any

import pytest

from bench.gpu import scale
from bench.gpu.scale import SMALL, ensure_checkpoint
from worker.model.checkpoint.weights import plan_loading


def test_a_complete_checkpoint_is_written_once(tmp_path: Path) -> None:
    path = ensure_checkpoint(tmp_path, SMALL)
    weights = path / "model.safetensors"
    written_at = weights.stat().st_mtime_ns
    assert ensure_checkpoint(tmp_path, SMALL) == path
    assert weights.stat().st_mtime_ns == written_at
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_checkpoint_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_a_part(directory: Path, **shape: Any) -> None:
        directory.mkdir()
        (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scale, "write_random_checkpoint", write_a_part)
        with pytest.raises(KeyboardInterrupt):
            ensure_checkpoint(tmp_path, SMALL)
    path = ensure_checkpoint(tmp_path, SMALL)
    assert plan_loading(path).headers
    assert list(tmp_path.iterdir()) == [path]
