"""The file of all figures."""

from pathlib import Path

from bench.figures import read_figures, record


def test_a_measurement_replaces_its_own_place_only(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    record(path, ("engine", "64"), 1)
    record(path, ("engine", "32"), 2)
    record(path, ("service",), 3)
    record(path, ("engine", "64"), 4)
    figures = read_figures(path)
    assert (figures["engine"], figures["service"]) == ({"64": 4, "32": 2}, 3)


def test_each_section_names_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert read_figures(path) == {}
    record(path, ("sweep", "model"), {})
    machine = read_figures(path)["machine"]
    assert list(machine) == ["sweep"]
    assert machine["sweep"]["cores"] >= 1
    assert "torch" in machine["sweep"]["versions"]
