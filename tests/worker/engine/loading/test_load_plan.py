"""The variant that is loaded when memory is short, and the refusals before anything is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ByteSize, TypeAdapter

from worker import host_memory
from worker.engine import EngineConfig, Executor, Quantization
from worker.engine.loading import compatibility, load_plan
from worker.engine.loading.adapters import AdapterMode
from worker.engine.loading.dtypes import parse_dtype, wanted_dtypes
from worker.engine.loading.load_plan import choose_variant
from worker.engine.loading.options import LoadOptions
from worker.engine.memory.host_forecast import PROCESS_BYTES, HostForecast, meta_model
from worker.host_memory import FreeMemory
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.checkpoint.adapter_weights import WEIGHTS_FILES
from worker.model.checkpoint.random_checkpoint import config_fields
from worker.model.checkpoint.weights import EMBEDDINGS, LM_HEAD, LoadingPlan, TensorHeader
from worker.model.config import ModelConfig

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture(autouse=True)
def cpu_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the CPU lack bfloat16; return a function that changes what the CPU says of itself."""

    def write(flags: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        monkeypatch.setattr(compatibility, "CPU_INFO", tmp_path / "cpuinfo")

    write("avx512f avx512_vnni")
    return write


def published(like: str, **fields: Any) -> LoadingPlan:
    """The headers of a published checkpoint, without its files."""
    raw = config_fields(like, full_size=True) | {"torch_dtype": "bfloat16"} | fields
    model = meta_model(ModelConfig.from_dict(raw))
    origins = {name: name for name in model.state_dict()}
    if model.config.tie_word_embeddings:
        origins[LM_HEAD] = EMBEDDINGS
    shape, dtype = tuple(model.lm_head.weight.shape), model.config.dtype
    assert dtype is not None
    headers = {EMBEDDINGS: TensorHeader(Path("model.safetensors"), EMBEDDINGS, shape, dtype)}
    return LoadingPlan(model, headers, origins)


FALCON_7B = published("7b")


def choose(
    free: str,
    plan: LoadingPlan = FALCON_7B,
    adapters: tuple[AdapterFolder, ...] = (),
    **options: Any,
) -> HostForecast:
    options = {"dtype": "auto", **options}
    memory = FreeMemory(TypeAdapter(ByteSize).validate_python(free), "left in this test")
    return choose_variant(plan, LoadOptions("x", **options), CPU, adapters, memory)


@pytest.mark.parametrize(
    ("free", "dtype", "executor"),
    [
        ("70GiB", torch.float32, Executor.OPENVINO),
        ("40GiB", torch.float32, Executor.TORCH),
        ("21GiB", torch.bfloat16, Executor.TORCH),
        ("14.4GiB", torch.bfloat16, Executor.TORCH),
    ],
)
def test_auto_takes_the_best_variant_that_fits(
    free: str, dtype: torch.dtype, executor: Executor
) -> None:
    """falcon-7b: float32 on OpenVINO takes 53 GiB, on torch 28; bfloat16 14."""
    variant = choose(free).variant
    assert (variant.dtype, variant.executor) == (dtype, executor)


@pytest.mark.parametrize(
    ("free", "executor"), [("70GiB", Executor.OPENVINO), ("21GiB", Executor.TORCH)]
)
def test_auto_takes_bfloat16_for_a_checkpoint_in_it_where_the_cpu_multiplies_it(
    free: str, executor: Executor, cpu_flags: Callable[[str], None]
) -> None:
    cpu_flags("avx512f avx512_bf16")
    chosen = choose(free)
    assert (chosen.variant.dtype, chosen.variant.executor) == (torch.bfloat16, executor)
    assert chosen.reason == "it is the checkpoint's dtype, and this CPU multiplies it"
    int8 = choose("70GiB", quantization=Quantization.INT8)
    assert int8.variant.dtype is torch.float32
    for stored in ("float32", "float16"):
        assert choose("70GiB", published("7b", torch_dtype=stored)).variant.dtype is torch.float32


def test_the_choice_of_a_dtype_has_a_reason() -> None:
    assert choose("70GiB").reason == "this CPU does not multiply bfloat16 natively"
    assert choose("21GiB").reason == "float32 does not fit in memory"
    assert choose("21GiB", dtype="bfloat16").reason == "the setting dtype asks for it"
    float32 = published("7b", torch_dtype="float32")
    assert choose("70GiB", float32).reason == "it is the checkpoint's dtype"


def test_auto_leaves_memory_free_if_a_smaller_variant_fits() -> None:
    needed = choose("40GiB").needed_bytes
    assert choose(f"{needed}", executor=Executor.TORCH).variant.dtype is torch.bfloat16
    assert choose(f"{needed}", dtype="float32").variant.executor is Executor.TORCH


def test_small_models_get_what_is_exact_and_fast(cpu_flags: Callable[[str], None]) -> None:
    cpu_flags("avx512f avx512_bf16")
    small = published("7b", hidden_size=64, num_hidden_layers=2, num_attention_heads=8)
    chosen = choose("1GiB", small)
    assert (chosen.variant.dtype, chosen.variant.executor) == (torch.float32, Executor.OPENVINO)
    assert chosen.reason == "a model this small is not faster in bfloat16"


def test_float16_checkpoints_are_served_in_bfloat16_where_float32_does_not_fit() -> None:
    """CPUs multiply float16 several times slower; only an explicit request gets it."""
    plan = published("7b", torch_dtype="float16")
    assert choose("21GiB", plan).variant.dtype is torch.bfloat16
    assert choose("21GiB", plan, dtype=None).variant.dtype is torch.float16
    assert choose("21GiB", plan, dtype="float16").variant.dtype is torch.float16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"dtype": "float32"},
            r"needs 2\d\.\d GiB of memory with dtype float32, executor torch, but 21.0 GiB are "
            r"left in this test; dtype bfloat16, executor torch would fit, with 1\d\.\d GiB",
        ),
        (
            {"executor": Executor.OPENVINO},
            r"needs 5\d\.\d GiB of memory with dtype float32, executor openvino.*"
            "; dtype bfloat16, executor torch would fit",
        ),
        (
            {"dtype": "bfloat16", "config": EngineConfig(num_blocks=10**6)},
            r"needs .* with dtype bfloat16, executor torch, but 21.0 GiB ",
        ),
        ({"config": EngineConfig(num_blocks=10**5)}, "; kv_tokens must be at most [0-9]+$"),
    ],
)
def test_a_refusal_says_what_would_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        choose("21GiB", **options)
    assert "\n" not in str(caught.value)


def test_a_kv_cache_of_the_size_that_a_refusal_names_fits() -> None:
    with pytest.raises(ValueError, match="kv_tokens must be at most") as caught:
        choose("21GiB", config=EngineConfig(num_blocks=10**5))
    most = int(str(caught.value).rpartition(" ")[2])
    assert choose("21GiB", config=EngineConfig(num_blocks=most // 32)).needed_bytes < 21 * GIB


def test_a_refusal_names_a_kv_cache_of_whole_blocks() -> None:
    """A worker rounds kv_tokens up to blocks: 37 tokens would take two."""
    one_block = choose("21GiB", dtype="bfloat16", config=EngineConfig(num_blocks=1)).needed_bytes
    per_token = FALCON_7B.model.config.kv_bytes_per_token(torch.bfloat16)
    too_large = EngineConfig(num_blocks=10**5)
    with pytest.raises(ValueError, match=r"; kv_tokens must be at most 32$"):
        choose(f"{one_block + 5 * per_token}", dtype="bfloat16", config=too_large)
    with pytest.raises(ValueError, match="; even dtype"):
        choose(f"{one_block - 5 * per_token}", dtype="bfloat16", config=too_large)


def test_if_no_variant_fits_the_error_names_the_smallest() -> None:
    with pytest.raises(ValueError, match=r"; even .*, quantization int4 needs 4\.\d GiB"):
        choose("4GiB", dtype="float32")
    with pytest.raises(ValueError, match="no other dtype, executor or quantization needs less"):
        choose("4GiB", quantization=Quantization.INT4)


def test_falcon_7b_in_12_gib_is_refused_in_bfloat16_and_served_quantized() -> None:
    refusal = r"^it needs 1\d\.\d GiB .*; .*, quantization int8 would fit, with 7\.\d GiB$"
    with pytest.raises(ValueError, match=refusal):
        choose("12GiB", dtype="bfloat16")
    assert choose("12GiB", quantization=Quantization.INT8).variant.executor is Executor.OPENVINO
    assert choose("12GiB", quantization=Quantization.INT4).loading_bytes < 5 * 10**9


@pytest.mark.parametrize(
    "options", [{"tensor_parallel": 2}, {"executor": Executor.TORCH}, {"device_map": "auto"}]
)
def test_4_bit_weights_are_refused_by_name_without_openvino(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="quantization int4 needs executor openvino, which runs"):
        choose("70GiB", quantization=Quantization.INT4, **options)


def test_4_bit_weights_are_refused_by_name_for_sizes_without_whole_groups() -> None:
    odd = published("7b", hidden_size=80, num_attention_heads=8)
    with pytest.raises(ValueError, match="hidden_size 80 and ffn_hidden_size 320 must be multipl"):
        choose("70GiB", odd, quantization=Quantization.INT4)


def test_parts_on_one_machine_take_its_memory_together() -> None:
    plan = published("40b")
    whole = choose("400GiB", plan, executor=Executor.TORCH).needed_bytes
    parts = choose("400GiB", plan, tensor_parallel=8).needed_bytes
    embeddings = plan.model.lm_head.weight.numel() * 4
    assert parts > whole + 7 * (embeddings + PROCESS_BYTES)
    with pytest.raises(ValueError, match="it needs"):
        choose(f"{whole}", plan, tensor_parallel=8, dtype="float32")


def test_adapters_count_and_keep_openvino_away_where_they_are_served(tmp_path: Path) -> None:
    with (tmp_path / WEIGHTS_FILES[0]).open("wb") as file:
        file.truncate(GIB)
    adapters = (AdapterFolder(tmp_path),)
    merged = choose("400GiB", adapters=adapters)
    served = choose("400GiB", adapters=adapters, adapter_mode=AdapterMode.SERVE)
    assert merged.variant.executor is Executor.OPENVINO
    assert merged.loading_bytes > choose("400GiB").loading_bytes + GIB
    assert served.variant.executor is Executor.TORCH


def test_a_head_that_is_stored_twice_is_read_twice() -> None:
    twice = LoadingPlan(FALCON_7B.model, {}, {**FALCON_7B.origins, LM_HEAD: LM_HEAD})
    more = choose("21GiB", twice).loading_bytes - choose("21GiB").loading_bytes
    assert more == FALCON_7B.model.lm_head.weight.numel() * 2


@pytest.mark.parametrize(
    ("quantization", "least"), [(None, 0), (Quantization.INT8_WEIGHT_ONLY, 0.8)]
)
def test_on_a_gpu_only_weights_to_quantize_pass_through_the_hosts_memory_one_at_a_time(
    quantization: Quantization | None, least: float
) -> None:
    options = LoadOptions("x", device="cuda", quantization=quantization)
    free = FreeMemory(400 * GIB, "left in this test")
    forecast = choose_variant(FALCON_7B, options, torch.device("cuda"), free=free)
    assert least * GIB <= forecast.needed_bytes < GIB


def test_the_limits_of_container_and_setting_bound_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="left by the setting memory"):
        choose_variant(FALCON_7B, LoadOptions("x", memory=PROCESS_BYTES), CPU)
    monkeypatch.setattr(host_memory, "memory_left", lambda: 5)
    with pytest.raises(ValueError, match="5 B are left by the memory limit of the control"):
        choose_variant(FALCON_7B, LoadOptions("x"), CPU)
    assert load_plan.free_memory().num_bytes == 5


def test_a_known_dtype_is_found_and_none_leaves_the_choice_to_the_checkpoint() -> None:
    half, cuda = published("7b", torch_dtype="float16"), torch.device("cuda")
    assert list(wanted_dtypes("bfloat16", half, CPU)) == [torch.bfloat16]
    assert list(wanted_dtypes(None, half, CPU)) == [torch.float16]
    assert list(wanted_dtypes("auto", half, cuda)) == [torch.float16]
    assert list(wanted_dtypes("auto", half, CPU)) == [torch.float32, torch.bfloat16]


def test_an_unknown_dtype_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*, not int8"):
        parse_dtype("int8")
