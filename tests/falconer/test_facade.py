"""`import falconer` offers the names of engine and client, and imports them on their first use."""

import subprocess
import sys

import pytest

import falconer
import falconer.client
import worker.engine
from worker.model.checkpoint.tiny import bundled_checkpoint


def test_the_facade_offers_every_public_name_of_engine_and_client() -> None:
    names = [*worker.engine.__all__, *falconer.client.__all__, "bundled_checkpoint"]
    assert sorted(falconer.__all__) == sorted(names)
    assert set(falconer.__all__) == set(dir(falconer))
    for package in (worker.engine, falconer.client):
        for name in package.__all__:
            assert getattr(falconer, name) is getattr(package, name)
    assert falconer.bundled_checkpoint is bundled_checkpoint


def test_an_unknown_name_is_an_attribute_error() -> None:
    name = "Motor"
    with pytest.raises(AttributeError, match="module 'falconer' has no attribute 'Motor'"):
        getattr(falconer, name)


def test_importing_the_facade_or_the_client_does_not_import_torch() -> None:
    code = (
        "import sys, falconer\n"
        "from falconer import Client\n"
        "assert 'torch' not in sys.modules\n"
        "from falconer import Engine\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
