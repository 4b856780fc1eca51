"""Devices find their stated peak by name; a CPU's is measured."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffusion import logbook
from diffusion.mesh import make_mesh
from diffusion.peaks import PEAKS, of_mesh, peak_of
from tests.tiny import program


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("TPU v5 lite", "TPU v5 lite"),
        ("TPU v4", "TPU v4"),
    ],
)
def test_a_device_finds_its_row(kind, row):
    assert peak_of(kind) == PEAKS[row]


def of(kind: str, count: int) -> SimpleNamespace:
    """As much of a mesh as is asked."""
    return SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu", device_kind=kind)] * count), size=count)


def test_accelerators_are_added_and_an_unknown_one_has_no_peak():
    assert of_mesh(of("NVIDIA H100 PCIe", 4)) == 4 * PEAKS["H100"]
    assert peak_of("NVIDIA T400") is None and of_mesh(of("NVIDIA T400", 2)) is None


def test_a_cpu_is_measured_once():
    mesh = make_mesh(2)
    assert 0 < of_mesh(mesh) == of_mesh(mesh) < 1e16


def test_a_run_without_a_known_peak_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logbook.peaks, "of_mesh", lambda mesh: None)
    assert logbook._busiest(program(tmp_path)) is None
    assert "perf/mfu is not logged: the peak of cpu" in capsys.readouterr().out
