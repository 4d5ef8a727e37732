"""The executors: the libraries that can run a network."""

from enum import StrEnum


class Executor(StrEnum):
    AUTO = "auto"  # the fastest that supports the model
    TORCH = "torch"  # anywhere
    OPENVINO = "openvino"  # on CPUs, in float32; an optional extra
