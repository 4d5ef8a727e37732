"""Names of devices and dtypes, and the word a wrong one gets."""

import pytest
import torch

from worker.engine.loading import parse_device, parse_dtype


def test_a_known_dtype_is_found_and_none_leaves_the_choice_to_the_checkpoint() -> None:
    assert parse_dtype("bfloat16") is torch.bfloat16
    assert parse_dtype(None) is None


def test_an_unknown_dtype_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*, not int8"):
        parse_dtype("int8")


def test_the_cpu_is_always_there() -> None:
    assert parse_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:", "", "cpu:"])
def test_a_device_of_no_known_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, not"):
        parse_device(name)


@pytest.mark.parametrize("name", ["cuda:512", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"device {name} is not there"):
        parse_device(name)
