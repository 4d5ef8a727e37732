"""The list of models, and the queue of each."""

import pytest

from shared.errors import SettingsError
from shared.process.settings import load_settings
from shared.queue.keys import Keys
from shared.registry.queue_settings import QueueSettings


def settings(models: str | None) -> QueueSettings:
    return load_settings(QueueSettings, {"queue": "q", "models": models})


def test_without_a_list_every_model_has_the_one_queue() -> None:
    for given in (settings(None), settings(" , ")):
        assert given.model_names == ()
        assert given.all_keys == (Keys("q"),) == (given.keys_of("any"),)


def test_the_first_model_keeps_the_queue_of_a_single_model() -> None:
    given = settings("a, org/b")
    assert given.model_names == ("a", "org/b")
    assert [given.keys_of(name).queue for name in ("a", "org/b")] == ["q", "q:model:org/b"]


def test_models_share_the_keys_of_jobs_and_no_key_of_a_queue() -> None:
    one, other = settings("a,b").all_keys
    assert one.record("1") == other.record("1")
    assert one.replies("r") == other.replies("r")
    for name in ("queue", "wake", "workers", "backlog", "totals", "batch_lane", "current_model"):
        assert getattr(one, name) != getattr(other, name)


def test_a_worker_of_a_model_outside_of_the_list_does_not_start() -> None:
    with pytest.raises(SettingsError, match=r"--models .* = 'a,b': must name the model 'c'"):
        settings("a,b").keys_of("c")


@pytest.mark.parametrize(
    ("models", "rule"),
    [
        ("a,a", "must name each model once"),
        ("a b", "the name 'a b' must have 1 to 255 characters, without spaces or ':'"),
        ("a:b", "the name 'a:b' must have 1 to 255 characters, without spaces or ':'"),
        (",".join(f"m{index}" for index in range(101)), "must name at most 100 models"),
    ],
)
def test_a_wrong_list_is_refused_with_the_rule(models: str, rule: str) -> None:
    with pytest.raises(SettingsError, match=rule):
        settings(models)
