"""The command line: output of the commands, and errors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from falconer import cli
from shared.errors import FalconerError


def run(*words: str) -> str:
    result = CliRunner().invoke(
        cli.app, list(words), env={"COLUMNS": "120"}, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_info_describes_the_checkpoint_that_tiny_writes(tmp_path: Path) -> None:
    assert str(tmp_path / "tiny") in run("model", "tiny", str(tmp_path / "tiny"))
    described = run("model", "info", str(tmp_path / "tiny"))
    assert "7b" in described
    assert "1,918,848" in described
    assert described == run("model", "info", "tiny")


def test_random_writes_the_requested_style_and_sizes(tmp_path: Path) -> None:
    folder = str(tmp_path / "random")
    run("model", "random", folder, "--like", "40b", "--num-layers", "3", "--dtype", "bfloat16")
    described = run("model", "info", folder)
    for fact in ("40b", "bfloat16", "8 on 2 of keys and values"):
        assert fact in described
    assert "layers              3" in described


def test_info_shows_what_a_worker_allocates_in_a_memory_limit() -> None:
    flags = ("--memory", "424MiB", "--device", "cpu", "--max-rows", "512", "--block-size", "16")
    described = run("model", "info", "tiny", *flags)
    assert "float32" in described
    assert "rows in a step       512 at most" in described
    assert "weights              7.3 MiB" in described
    blocks = re.search(r"blocks +([\d,]+) of 16 tokens", described)
    assert blocks is not None
    num_blocks = int(blocks[1].replace(",", ""))
    # Steps and libraries need most of the memory; a block takes 16 KiB.
    assert 12 * 256 // 16 <= num_blocks < (424 - 192) * 2**20 // (2 * 16 * 1024)


def test_info_shows_the_memory_of_each_load_variant_on_a_cpu() -> None:
    """Each variant that a worker may load has a row, and the chosen one is marked."""
    rows = re.findall(
        r"(float32|bfloat16) +(openvino|torch) +.* (yes|no|chosen)",
        run("model", "info", "tiny", "--device", "cpu", "--memory", "8GiB"),
    )
    ways = [(dtype, executor) for dtype, executor, _ in rows]
    on_torch = [dtype for dtype, executor in ways if executor == "torch"]
    assert on_torch == ["float32", "bfloat16"]
    assert [fits for *_, fits in rows] == ["chosen", *["yes"] * (len(rows) - 1)]


def test_info_shows_the_size_of_quantized_weights() -> None:
    whole, rounded = (
        run("model", "info", "tiny", *words) for words in ([], ["--quantization", "fp8"])
    )
    assert "3.7 MiB" in whole
    assert "2.2 MiB" in rounded  # 1.5 million of 1.9 million weights


def test_info_shows_the_dtype_of_int8() -> None:
    described = run("model", "info", "tiny", "--quantization", "int8", "--device", "cpu")
    assert "float32" in described
    assert "2.6 MiB" in described  # with a quantized copy of the embeddings for the head
    assert "GPU memory" not in described


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["int8"], "device cpu and dtype float32, not cuda and bfloat16"),
        (["int8", "--device", "cuda:1"], "device cpu and dtype float32, not cuda:1 and bfloat16"),
        (
            ["int8", "--device", "cpu", "--dtype", "float16"],
            "device cpu and dtype float32, not cpu and float16",
        ),
        (["fp8", "--device", "cpu"], "device cuda and dtype bfloat16, not cpu and float32"),
        (["fp8", "--dtype", "float16"], "device cuda and dtype bfloat16, not cuda and float16"),
    ],
)
def test_info_refuses_what_a_worker_would_refuse(words: list[str], found: str) -> None:
    with pytest.raises(FalconerError) as caught:
        run("model", "info", "tiny", "--quantization", *words)
    assert caught.value.message == f"quantization {words[0]} needs {found}"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model", "random", "{new}", "--like", "13b"], "like must be one of 7b, 40b, 11b, rw"),
        (["model", "random", "{new}", "--dtype", "int4"], "--dtype must be one of"),
        (["model", "random", "{full}"], "is not an empty folder"),
        (["model", "tiny", "{full}"], "is not an empty folder"),
        (["model", "info", "{full}"], "no config.json"),
        (
            ["model", "info", "tiny", "--memory", "lots"],
            "--memory must be a size such as 80GiB, got 'lots'",
        ),
        (["model", "info", "tiny", "--memory", "1MiB"], "no memory left for a KV cache on cuda"),
        (
            ["model", "info", "tiny", "--memory", "272MiB", "--device", "cpu"],
            "but 80.0 MiB are left of 272.0 MiB by the process itself; even dtype",
        ),
        (["model", "info", "tiny", "--device", "tpu"], "device must be cpu, cuda or cuda:N"),
        (["model", "info", "tiny", "--dtype", "int4"], "dtype must be one of float32"),
        (["model", "info", "tiny", "--quantization", "int3"], "must be one of int8, int8-weight-"),
        (["bench", "engine", "--requests", "{new}"], "no such file"),
    ],
)
def test_an_invalid_argument_is_named_in_the_error(
    words: list[str], part: str, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "note").write_text("mine")
    filled = [word.format(new=tmp_path / "new", full=full) for word in words]
    with pytest.raises(FalconerError) as caught:
        CliRunner().invoke(cli.app, filled, catch_exceptions=False)
    assert part in caught.value.message


def test_an_error_is_one_line_on_stderr_and_exit_code_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "falconer", "model", "info", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr == f"falconer: no config.json in {tmp_path}\n"


def test_a_missing_package_is_named_with_the_extras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bench.engine.engine_bench", None)  # its import fails
    monkeypatch.setattr(sys, "argv", ["falconer", "bench", "engine", "--requests", __file__])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "falconer[worker]" in capsys.readouterr().err


def test_the_engine_benchmark_reports_requests_in_order(tmp_path: Path) -> None:
    workload, report = tmp_path / "w.jsonl", tmp_path / "out.json"
    workload.write_text(
        '{"prompt": "Hello", "generate_kwargs": {"do_sample": false, "max_new_tokens": 3}}\n'
        '{"prompt_ids": [100], "generate_kwargs": {"max_new_tokens": 5, "eos_token_id": null}}\n'
    )
    printed = run("bench", "engine", "--requests", str(workload), "--json", str(report))
    assert "tokens_per_s" in printed
    body = json.loads(report.read_text())
    counts = [len(request["sequences"][0]["token_ids"]) for request in body["requests"]]
    assert counts == [3, 5]
    assert body["summary"]["output_tokens"] == 8
    assert body["summary"]["rows_per_step"] > 1
