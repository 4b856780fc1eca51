"""How much memory there is: a device's own limit, or what the host and its control group leave."""

from types import SimpleNamespace

import pytest

from diffusion import memory


def device(**stats):
    return SimpleNamespace(memory_stats=lambda: stats or None)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Sets files as Linux has them."""

    def write(available_kib, limit=None, used=0):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:  {available_kib} kB\n")
        if limit is not None:
            (tmp_path / "memory.max").write_text(f"{limit}\n")
            (tmp_path / "memory.current").write_text(f"{used}\n")

    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return write


def test_the_smallest_device_counts():
    assert memory.room([device(bytes_limit=5), device(bytes_limit=3)]) == 3


@pytest.mark.parametrize(
    "limits, wanted",
    [((8,), 8192), ((8, "max"), 8192), ((8, 5000, 1000), 4000), ((8, 9000, 100), 8192), ((8, 100, 200), 0)],
)
def test_a_host_s_is_shared_by_its_devices(host, limits, wanted):
    host(*limits)
    assert memory.host_room() == wanted
    assert memory.room([device(), device()]) == wanted // 2
