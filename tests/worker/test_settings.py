import pytest

from api.settings import ApiSettings
from shared.errors import SettingsError
from shared.process.settings import load_settings
from worker.settings import WorkerSettings


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALCONER_MAX_ROWS", "7")
    monkeypatch.setenv("FALCONER_LOG_FORMAT", "json")
    settings = load_settings(WorkerSettings)
    assert (settings.max_rows, settings.log_format, settings.model) == (7, "json", "tiny")


def test_api_and_workers_accept_the_same_queue_names() -> None:
    for settings_class in (ApiSettings, WorkerSettings):
        assert load_settings(settings_class, {"queue": "q" * 128}).queue == "q" * 128
        with pytest.raises(SettingsError, match=r"--queue .* at most 128 characters"):
            load_settings(settings_class, {"queue": "q" * 129})


def test_memory_is_a_size_in_any_unit() -> None:
    for text, num_bytes in (("16GiB", 2**34), ("24 GB", 24 * 10**9), ("1024", 1024)):
        assert load_settings(WorkerSettings, {"memory": text}).memory == num_bytes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_rows", "0"),
        ("kv_tokens", "none"),
        ("prompt_lookup", "0"),
        ("lease_s", "0"),
        ("grace_s", "-1"),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("quantization", "int3"),
        ("attention", "flash"),
        ("worker_id", "two words"),
        ("worker_id", "with:colon"),
        ("log_level", "loud"),
        ("max_attempts", "0"),
        ("adapter_mode", "next"),
        ("memory", "lots"),
        ("memory", "80gibs"),
        ("memory", "-1GiB"),
    ],
)
def test_a_wrong_value_is_reported_in_one_line(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(WorkerSettings, {name: value})
    assert name.replace("_", "-") in caught.value.message
    assert "\n" not in caught.value.message
