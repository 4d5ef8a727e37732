"""`import falconer` offers the public names of the engine, and imports torch on their first use."""

import subprocess
import sys

import pytest

import falconer
import worker.engine
from worker.model.checkpoint.tiny import bundled_checkpoint


def test_the_facade_offers_every_public_name_of_the_engine() -> None:
    assert set(falconer.__all__) == {*worker.engine.__all__, "bundled_checkpoint"}
    assert set(falconer.__all__) == set(dir(falconer))
    for name in worker.engine.__all__:
        assert getattr(falconer, name) is getattr(worker.engine, name)
    assert falconer.bundled_checkpoint is bundled_checkpoint


def test_an_unknown_name_is_an_attribute_error() -> None:
    name = "Motor"
    with pytest.raises(AttributeError, match="module 'falconer' has no attribute 'Motor'"):
        getattr(falconer, name)


def test_importing_the_facade_does_not_import_torch() -> None:
    code = (
        "import sys, falconer\n"
        "assert 'torch' not in sys.modules\n"
        "from falconer import Engine\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
