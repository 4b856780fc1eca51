"""Weights are found, or it is said how to get them; a wrong, damaged or half-written file is refused."""

import hashlib
import http.server
import json
import sys
import threading
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import tensor_files, weight_files
from diffusion.errors import ConfigError, DataError
from diffusion.weight_files import WeightFile

TENSORS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bn.num_batches_tracked": np.array(7),
}
SHAPES = {"conv.weight": (2, 3)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Empty cache folders; the first is returned."""
    monkeypatch.setenv("DIFFUSION_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def torch(monkeypatch):
    """What the reader knows of torch, on NumPy: a "pickle" is a JSON of lists. ``loads`` counts."""

    class Tensor:
        dtype = "float32"

        def __init__(self, values):
            self.values = np.array(values, np.float32).T.copy().T  # strided, as torch's may be

        def detach(self):
            return self

        def numpy(self):
            return self.values

    def load(path, *, map_location, weights_only):
        assert weights_only is True and map_location == "cpu"
        fake.loads += 1
        held = json.loads(path.read_text())
        return {name: Tensor(values) for name, values in held.items()} if isinstance(held, dict) else held

    fake = types.SimpleNamespace(Tensor=Tensor, load=load, bfloat16="bfloat16", loads=0)
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def pickled(path):
    path.write_text(json.dumps({name: tensor.tolist() for name, tensor in TENSORS.items()}))
    return path, sha256(path)


def safe(path):
    save_file(TENSORS, path)
    return path, sha256(path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(given, file):
    return weight_files.load(str(given), file, field="eval.net.weights", shapes=SHAPES)


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def test_a_path_is_read_and_named_by_its_hash(tmp_path):
    path, digest = safe(tmp_path / "net.safetensors")
    loaded = load(path, WeightFile(("net.safetensors",), digest))
    assert loaded.sha256 == digest
    np.testing.assert_array_equal(loaded.tensors["conv.weight"], TENSORS["conv.weight"])
    assert loaded.tensors["bn.num_batches_tracked"].shape == ()


@pytest.mark.parametrize("folder", ["cache", "torch/hub/checkpoints", "hf/hub/models--a--net/snapshots/1f"])
def test_weights_are_found_in_the_cache_folders(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "hf/hub/models--a--net/refs").mkdir(parents=True)
    (tmp_path / "hf/hub/models--a--net/refs/main").write_text("1f")
    path, digest = safe(tmp_path / folder / "model.safetensors")
    names = ("other.safetensors", "model.safetensors")
    assert load("", WeightFile(names, digest[:8], hub="a/net")).sha256 == digest


def test_missing_weights_are_told_with_the_way_to_get_them(cache):
    file = WeightFile(("net.pth", "also-net.pth"), "0" * 64, ("https://example.org/net.pth",))
    with pytest.raises(ConfigError) as said:
        load("", file)
    for word in ("eval.net.weights", "net.pth or also-net.pth", "https://example.org/net.pth", str(cache)):
        assert word in str(said.value)
    assert "\n" not in str(said.value)
    said = r"no net in .*/hf/hub; run `hf download lab/net --local-dir .*/net`, or"
    with pytest.raises(ConfigError, match=said):
        load("", WeightFile(("net",), hub="lab/net"))
    with pytest.raises(ConfigError, match="elsewhere.pth does not exist; download net.pth"):
        load("elsewhere.pth", file)


def test_a_file_of_another_hash_is_refused(tmp_path):
    path, digest = safe(tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match=f"{digest[:16]}.*another file, or a damaged one"):
        load(path, WeightFile(("net.safetensors",), "0" * 64))


def test_a_truncated_file_is_refused(tmp_path):
    path, _ = safe(tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="not readable as safetensors"):
        load(path, WeightFile(("net.safetensors",)))


def test_another_networks_file_is_refused_by_its_keys():
    found = {"a": np.zeros((2, 3)), "b": np.zeros(2), "x.position_ids": np.zeros(3), "n.num_batches_tracked": 0}
    shapes = {"a": (3, 2), "c": (1,), "m.num_batches_tracked": (), **{f"d{i}": (1,) for i in range(5)}}
    with pytest.raises(DataError) as said:
        weight_files.check_keys(found, shapes, [r"x\..*"])
    assert "6 missing (c, d0, d1, …)" in str(said.value)
    assert "1 unexpected (b)" in str(said.value)
    assert "1 of another shape (a (2, 3) for (3, 2))" in str(said.value)
    weight_files.check_keys(found, {"a": (2, 3), "b": (2,)}, [r"x\..*"])
    with pytest.raises(DataError, match="x.position_ids"):
        weight_files.check_keys(found, {"a": (2, 3), "b": (2,)}, ["x", "position_ids"])


def test_a_pickle_is_converted_once(tmp_path, cache, torch):
    path, digest = pickled(tmp_path / "net.pth")
    file = WeightFile(("net.pth",), digest)
    first, second = load(path, file), load(path, file)
    assert torch.loads == 1
    assert first.sha256 == second.sha256 == digest
    np.testing.assert_array_equal(second.tensors["conv.weight"], TENSORS["conv.weight"])
    (converted,) = cache.iterdir()
    assert converted.name == f"net.from-{digest[:8]}.safetensors"
    np.testing.assert_array_equal(load_file(converted)["conv.weight"], TENSORS["conv.weight"])


def test_a_conversion_stands_in_for_its_source(tmp_path, cache, torch, monkeypatch):
    path, digest = pickled(tmp_path / "net.pth")
    load(path, WeightFile(("net.pth",), digest))
    path.unlink()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert load("", WeightFile(("net.pth",), digest)).sha256 == digest
    with pytest.raises(ConfigError, match="no net.pth"):
        load("", WeightFile(("net.pth",), "0" * 64))


def test_a_changed_source_is_hashed_and_not_taken_for_the_converted_one(tmp_path, torch):
    path, digest = pickled(tmp_path / "net.pth")
    load(path, WeightFile(("net.pth",), digest))
    path.write_text(path.read_text().replace("5.0", "6.0"))
    with pytest.raises(ConfigError, match="another file"):
        load(path, WeightFile(("net.pth",), digest))
    assert load(path, WeightFile(("net.pth",))).tensors["conv.weight"][1, 2] == 6


def test_a_damaged_conversion_is_made_anew_or_refused(tmp_path, cache, torch, caplog):
    path, digest = pickled(tmp_path / "net.pth")
    file = WeightFile(("net.pth",), digest)
    load(path, file)
    (converted,) = cache.iterdir()
    whole = converted.read_bytes()
    converted.write_bytes(whole[:-3] + b"abc")
    with pytest.raises(ConfigError, match="changed or damaged"):
        load("", file)
    assert load(path, file).tensors["conv.weight"][1, 2] == 5
    assert "converting" in caplog.text and torch.loads == 2
    assert load_file(converted)["conv.weight"][1, 2] == 5
    converted.write_bytes(whole[:-20])
    load(path, file)
    assert torch.loads == 3


def test_a_conversion_of_another_file_is_not_taken_for_this_ones(tmp_path, cache, torch):
    path, digest = pickled(tmp_path / "net.pth")
    tensor_files.save_conversion(
        cache / f"net.from-{digest[:8]}.safetensors", {"conv.weight": np.zeros((2, 3))}, "0" * 64
    )
    np.testing.assert_array_equal(load(path, WeightFile(("net.pth",))).tensors["conv.weight"], TENSORS["conv.weight"])


def test_without_torch_the_way_to_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="pip install torch"):
        load(pickled(tmp_path / "net.pth")[0], WeightFile(("net.pth",)))


def test_a_pickle_of_something_else_is_refused(tmp_path, cache, torch):
    for text, said in (("{", "not readable as a file of tensors"), ("[1]", "not a dict of tensors")):
        (tmp_path / "net.pth").write_text(text)
        with pytest.raises(ConfigError, match=said):
            load(tmp_path / "net.pth", WeightFile(("net.pth",)))
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said_and_harmless(tmp_path, torch, caplog, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("DIFFUSION_WEIGHTS", str(tmp_path / "a file/cache"))
    load(pickled(tmp_path / "net.pth")[0], WeightFile(("net.pth",)))
    assert "torch is needed at every start" in caplog.text


def shards(folder):
    folder.mkdir()
    save_file({"a": np.zeros(2)}, folder / "1.safetensors")
    save_file({"b": np.ones(3)}, folder / "2.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    return index


def test_shards_are_read_as_one(tmp_path):
    index = shards(tmp_path / "net")
    loaded = weight_files.read(tmp_path / "net")
    assert {name: t.shape for name, t in loaded.tensors.items()} == {"a": (2,), "b": (3,)}
    save_file({"b": np.full(3, 2.0)}, tmp_path / "net/2.safetensors")
    assert weight_files.read(index).sha256 != loaded.sha256


def test_shards_that_do_not_fit_their_index_are_refused(tmp_path):
    index = shards(tmp_path / "net")
    save_file({"a": np.zeros(2)}, tmp_path / "net/2.safetensors")
    with pytest.raises(DataError, match="a is in another shard as well"):
        weight_files.read(index)
    save_file({"c": np.zeros(2)}, tmp_path / "net/2.safetensors")
    with pytest.raises(DataError, match=r"1 tensors that no shard holds \(b\)"):
        weight_files.read(index)
    (tmp_path / "net/2.safetensors").unlink()
    with pytest.raises(DataError, match="2.safetensors does not exist"):
        weight_files.read(index)
    index.write_text("{}")
    with pytest.raises(DataError, match="not an index"):
        weight_files.read(index)


def test_a_folder_or_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no weights"):
        weight_files.read(tmp_path)
    (tmp_path / "net.h5").touch()
    with pytest.raises(DataError, match="weights are read from .safetensors"):
        weight_files.read(tmp_path / "net.h5")


def test_a_url_is_downloaded_once_under_its_published_name(tmp_path, cache):
    path, digest = safe(tmp_path / "net.safetensors")
    file = WeightFile(("net.safetensors",), digest)
    assert load(path.as_uri(), file).path == cache / "net.safetensors"
    path.unlink()
    assert load(path.as_uri(), file).sha256 == digest


def test_a_name_that_says_nothing_is_kept_with_its_url(tmp_path, cache):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        save_file({"conv.weight": np.full((2, 3), ord(folder))}, tmp_path / folder / "model.safetensors")
    a, b = (load((tmp_path / folder / "model.safetensors").as_uri(), WeightFile(("net",))) for folder in "ab")
    assert a.tensors["conv.weight"][0, 0] == ord("a") and b.tensors["conv.weight"][0, 0] == ord("b")


def test_a_download_of_another_hash_leaves_nothing(tmp_path, cache):
    path, digest = safe(tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match=f"{digest[:16]}.*another file"):
        load(path.as_uri(), WeightFile(("net.safetensors",), "0" * 64))
    assert list(cache.iterdir()) == []


def test_a_url_that_holds_nothing_is_named(tmp_path, cache):
    with pytest.raises(ConfigError, match="absent.safetensors cannot be downloaded"):
        load((tmp_path / "absent.safetensors").as_uri(), WeightFile(("absent.safetensors",)))
    assert list(cache.iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(cache):
    class Half(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 400)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Half) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ConfigError, match="broke off after 400 of 1000 bytes"):
            load(f"http://127.0.0.1:{server.server_port}/net.safetensors", WeightFile(("net.safetensors",)))
        server.shutdown()
    assert list(cache.iterdir()) == []


def test_a_second_process_that_downloads_the_same_does_no_harm(tmp_path, cache, monkeypatch):
    path, digest = safe(tmp_path / "net.safetensors")
    file = WeightFile(("net.safetensors",), digest)
    fetch = weight_files._fetch

    def meanwhile(url, out):  # the other is done while this one still writes
        monkeypatch.setattr(weight_files, "_fetch", fetch)
        load(path.as_uri(), file)
        assert len(left_over(cache)) == 1
        return fetch(url, out)

    monkeypatch.setattr(weight_files, "_fetch", meanwhile)
    assert load(path.as_uri(), file).sha256 == digest
    assert [p.name for p in cache.iterdir()] == ["net.safetensors"]


def test_a_second_process_that_converts_the_same_does_no_harm(tmp_path, cache, torch, monkeypatch):
    path, digest = pickled(tmp_path / "net.pth")
    read_once = torch.load

    def meanwhile(path, **how):
        torch.load = read_once
        load(path, WeightFile(("net.pth",), digest))
        return read_once(path, **how)

    torch.load = meanwhile
    load(path, WeightFile(("net.pth",), digest))
    (converted,) = cache.iterdir()
    assert tensor_files.source_of(converted) == digest
    assert weight_files.read(converted).sha256 == digest
