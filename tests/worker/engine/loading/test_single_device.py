"""Names of devices, and the word a wrong one gets."""

import pytest
import torch

from worker.engine.loading.single_device import parse_device


def test_the_cpu_is_always_there() -> None:
    assert parse_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:", "", "cpu:"])
def test_a_device_of_no_known_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, not"):
        parse_device(name)


@pytest.mark.parametrize("name", ["cuda:512", "cpu:1"])
def test_a_device_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"device {name} does not exist"):
        parse_device(name)
