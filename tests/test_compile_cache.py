"""Compiled programs over starts: where they are kept, that they are found, and what goes before ours."""

import os

import pytest

from diffusion import compile_cache
from diffusion.compile_cache import automatic, forget_oldest, keep_compiled

ARGUMENTS = ("--mode=bench", "--config.net.unet.channels=8", "--config.net.unet.groups=2", "--config.net.unet.heads=1",
             "--config.data.batch_size=8", "--config.eval.batch_size=8", "--config.sampler.steps=2")  # fmt: skip


@pytest.fixture
def kept(monkeypatch):
    """What JAX is told, which is not done."""
    told = {}
    monkeypatch.delenv(compile_cache.ENVIRONMENT)
    monkeypatch.setattr(compile_cache.jax.config, "update", lambda name, value: told.update({name: value}))
    return told


def test_a_folder_of_the_user_by_jax_and_processor(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = keep_compiled("auto")
    assert folder == automatic() and folder.is_dir() and folder.parent == tmp_path / "jax-diffusion"
    assert kept["jax_compilation_cache_dir"] == str(folder)
    monkeypatch.setattr(compile_cache.platform, "machine", lambda: "another")
    assert automatic() != folder, "what was compiled for another processor is not taken"


def test_a_folder_of_one_s_own_or_none(kept, tmp_path):
    assert keep_compiled("") is None and kept == {}
    assert keep_compiled(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert kept["jax_compilation_cache_dir"] == str(tmp_path / "a" / "b")


def test_what_cannot_be_written_is_said_and_done_without(kept, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert keep_compiled(str(tmp_path / "file" / "in")) is None and kept == {}
    assert "cannot be used" in caplog.text


def test_jax_s_own_variable_goes_before(monkeypatch, tmp_path):
    monkeypatch.setattr(compile_cache.jax.config, "update", lambda *_: pytest.fail("it stands already"))
    monkeypatch.setenv(compile_cache.ENVIRONMENT, str(tmp_path))
    assert keep_compiled("auto") == tmp_path
    monkeypatch.setenv(compile_cache.ENVIRONMENT, "")
    assert keep_compiled("auto") is None


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for age, name in enumerate("cab"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    forget_oldest(tmp_path, 30)
    assert len(list(tmp_path.iterdir())) == 3
    forget_oldest(tmp_path, 15)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_the_second_start_finds_what_the_first_compiled(run_main, tmp_path):
    found = []
    for _ in range(2):
        env = {compile_cache.ENVIRONMENT: None, "XDG_CACHE_HOME": tmp_path, "JAX_LOG_COMPILES": "0"}
        assert run_main(*ARGUMENTS, f"--workdir={tmp_path / 'run'}", env=env).rc == 0
        (folder,) = (tmp_path / "jax-diffusion").iterdir()
        found.append({path.name for path in folder.iterdir() if path.name.endswith("-cache")})
    assert found[0] and found[1] == found[0]
