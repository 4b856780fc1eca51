"""Encodings made once: training on them is training with the codec, and what does not fit is refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main_jax
from diffusion import disk, encode, encoded, feed, train
from diffusion.data.encodings import NAME, Encodings, read
from diffusion.data.unfinished import partial_of
from diffusion.errors import ConfigError, DataError, DiskError, Stopped
from diffusion.modes.bench import _random_batch
from diffusion.modes.describe import facts
from diffusion.signals import StopRequest
from tests.tiny import arguments, log, program, state_print

CODEC = {
    "codec__name": "random_conv",
    "codec__random_conv__width": 8,
    "codec__random_conv__scale": 0.37,  # a product at the end, which may be rounded otherwise where it is used at once
    "codec__random_conv__deviation": 0.1,
    "data__flip": True,
    "encode__shard_mb": 1,
    "sampler__threshold": "none",
    "sample__every": 0,
    "eval__metrics": "fd",
    "eval__every": 0,
}
QUIET = CODEC | {"eval__metrics": "()", "val__every": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The digits' encodings, in files of one batch each."""
    where = tmp_path_factory.mktemp("encodings")
    given = arguments(where / "run", **QUIET, data__encodings=where / "made")
    assert main_jax.main(["--mode=encode", *given]) == 0
    assert not (where / "run").exists() and [path.name for path in where.iterdir()] == ["made"]
    return where / "made"


@pytest.fixture(scope="module")
def of_codec(tmp_path_factory):
    """A run that encodes in every step."""
    workdir = tmp_path_factory.mktemp("codec") / "run"
    train.run(program(workdir, **CODEC))
    return workdir


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_record_is_encoded_once(folder):
    p = program("unused", **QUIET, data__encodings=folder)
    found = read(folder)
    files = [f"train-0000{i}-of-00003.array_record" for i in range(3)] + ["test-00000-of-00001.array_record"]
    assert sorted(contents(folder)) == sorted([NAME, *files])
    assert {name: sum(f.records for f in split.files) for name, split in found.splits.items()} == p.dataset.sizes
    assert found.made_by["packages"]["jax"] == jax.__version__
    codec = p.diffusion.codec
    for split in p.dataset.sizes:
        records, transform = encoded.of_split(p, split)
        images = p.dataset.open(split)
        np.testing.assert_array_equal(records.labels, images.labels)
        pixels = np.stack([images[i].image for i in range(len(images))])
        for mirrored, u in ((False, 0.5), (True, 0.49)):
            wanted = codec.encode(codec.frozen, jnp.asarray(pixels[:, :, ::-1] if mirrored else pixels))
            kept = [transform(records[i].image, np.array([u])) for i in range(len(records))]
            np.testing.assert_allclose(np.stack(kept), wanted, rtol=0, atol=1e-5)
        assert [records[i].label for i in range(len(records))] == images.labels.tolist()
        np.testing.assert_array_equal(transform(records[3].image, None), records[3].image[0])


def test_training_is_that_with_the_codec_to_the_bit(of_codec, folder, tmp_path, monkeypatch):
    """Draws from the encoder's distribution, mirrored images, an incomplete batch, a stop, validation, evaluation."""
    kept, stop = tmp_path / "kept", StopRequest()
    fields, dispatch = CODEC | {"data__encodings": folder}, train.Loop._dispatch

    def stopping(loop, *given):
        dispatch(loop, *given)
        stop.reason = "SIGTERM" if loop.step == 6 else stop.reason

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(train.Loop, "_dispatch", stopping)
        train.run(program(kept, **fields), stop)
    train.run(program(kept, **fields))
    assert state_print(kept, **fields)[0] == state_print(of_codec, **CODEC)[0]
    assert {"eval/fd", "val/loss", "train/loss"} <= {name for line in log(kept) for name in line}
    for one, other in zip(log(kept), log(of_codec), strict=True):
        assert one.keys() == other.keys()
        found, wanted = ({name: v for name, v in line.items() if v is not None} for line in (one, other))
        assert found == pytest.approx(wanted, rel=3e-7), (
            "means of the same rows, which each program adds in its own way"
        )


def test_half_precision_rounds_to_eleven_bits(folder, tmp_path):
    p = program("unused", **QUIET, encode__dtype="float16", data__encodings=tmp_path / "half")
    encode.encode(p)
    half, whole = (encoded.of_split(p_, "test")[0] for p_ in (p, program("unused", **QUIET, data__encodings=folder)))
    for i in range(len(whole)):
        assert half[i].image.dtype == np.float16
        np.testing.assert_allclose(half[i].image, whole[i].image, rtol=2**-11, atol=2**-24)
    assert half.fingerprint != whole.fingerprint
    (batch,) = feed.loader(p, "test", training=False).iterate(0, 1)
    assert batch.x.dtype == np.float16


REFUSED = {  # what is changed: (fields, what is named)
    "other weights": ({"codec__random_conv__seed": 1}, "was made otherwise: weights_sha256: there "),
    "another codec": ({"codec__random_conv__width": 16}, "width: there 8, here 16; weights_sha256"),
    "another transform": ({"data__flip": False}, "flip=True), here Transform"),
    "other images": ({"data__split_seed": 1}, "content_sha256 of train: there "),
    "a validation split that is not there": ({"data__test_classes": "3"}, "holds no split train_seen, test_seen"),
    "no encodings": ({"data__encodings": "/nowhere"}, "there are none in /nowhere; make them: --mode=encode"),
    "a turn": ({"data__rotate": 5}, "data.rotate: is 5.0, and encodings are made once"),
    "a jitter": ({"data__jitter": 0.1}, "data.jitter: is 0.1"),
    "turned sets": ({"sets__symmetries": True}, "sets.symmetries: turns images"),
    "pixels": ({"codec__name": "pixels"}, "data.encodings: is for a codec that encodes; pixels encodes nothing"),
    "another type": ({"encode__dtype": "float64"}, "encode.dtype: is 'float64'; it must be float32 or float16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(folder, tmp_path, capsys, case):
    fields, said = REFUSED[case]
    given = arguments(tmp_path / "run", **(QUIET | {"data__encodings": folder} | fields))
    assert main_jax.main(given) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def cut(folder):
    path = folder / "train-00001-of-00003.array_record"
    path.write_bytes(path.read_bytes()[:-1])


def change(folder):
    path = folder / "test-00000-of-00001.array_record"
    path.write_bytes(b"\0" * path.stat().st_size)


def edit(folder):
    path = folder / NAME
    path.write_text(path.read_text().replace('"width": 8', '"width": 16'))


def forget_split(folder):
    found = read(folder)
    Encodings(folder, found.made_of, found.layout, {"train": found.splits["train"]}, found.made_by).save()


DAMAGED = {
    "cut short": (cut, "train-00001-of-00003.array_record has "),
    "another file": (change, "test-00000-of-00001.array_record is damaged or cut short: 0 of 359"),
    "a file gone": (lambda f: (f / "train-00000-of-00003.array_record").unlink(), "00000-of-00003.array_record is not"),
    "edited": (edit, "encodings.json does not match its checksum"),
    "a split gone": (forget_split, "holds no split test; there are: train"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_found_before_anything_is_written(copy, tmp_path, capsys, case):
    damage, said = DAMAGED[case]
    damage(copy)
    assert main_jax.main(arguments(tmp_path / "run", **QUIET, data__encodings=copy)) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1 and not (tmp_path / "run").exists()


def test_training_is_said_to_cost_less_by_the_encoder(folder):
    images, kept = (facts(program("unused", **QUIET, data__encodings=where)) for where in ("", folder))
    assert images["flops_per_image"] > kept["flops_per_image"] and images["parameters"] == kept["parameters"]


def test_bench_times_a_step_on_what_the_loader_reads(folder):
    p = program("unused", **QUIET, data__encodings=folder)
    records, transform = encoded.of_split(p, "train")
    kept, x = transform(records[0].image, None), _random_batch(p, 0).x
    assert (x.shape, x.dtype) == ((p.rows, *kept.shape), kept.dtype)


def test_they_are_made_once(folder, copy, tmp_path, capsys):
    before = contents(folder)
    mode = ["--mode=encode", *arguments(tmp_path / "run", **QUIET, data__encodings=folder)]
    assert main_jax.main([*mode, "--config.encode.shard_mb=9"]) == 0
    assert "holds these encodings already" in capsys.readouterr().out
    assert main_jax.main([*mode, "--config.codec.random_conv.width=16"]) == 2
    assert "was made otherwise: width" in capsys.readouterr().err
    assert main_jax.main([*mode, "--config.encode.dtype=float16"]) == 2
    assert "encode.dtype: there float32, here float16" in capsys.readouterr().err
    assert contents(folder) == before
    (copy / NAME).unlink()
    assert main_jax.main(["--mode=encode", *arguments(tmp_path / "run", **QUIET, data__encodings=copy)]) == 2
    assert "holds something else, which is left as it is" in capsys.readouterr().err
    assert main_jax.main(["--mode=encode", *arguments(tmp_path / "run", **QUIET)]) == 2
    assert "data.encodings: is empty; give the folder" in capsys.readouterr().err


def test_a_stop_leaves_whole_files_and_the_same_command_goes_on(folder, tmp_path, monkeypatch):
    where, count, written = tmp_path / "made", 0, []
    p, write = program("unused", **QUIET, data__encodings=where), encode.write_shard
    with StopRequest() as stop:

        def between():
            nonlocal count
            count += 1
            stop.reason = "SIGTERM" if count == 2 else ""
            stop.check()

        with pytest.raises(Stopped):
            encode.encode(p, between)
    partial = partial_of(where)
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    whole = ["train-00000-of-00003.array_record"]
    assert sorted(path.name for path in partial.iterdir()) == [".lock", "plan.json", *whole]
    (partial / ".train-00001-of-00003.array_record").write_bytes(b"of a program that was killed")
    monkeypatch.setattr(encode, "write_shard", lambda path, records: written.append(path.name) or write(path, records))
    encode.encode(p)
    assert len(written) == 3 and contents(where) == contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_another_program_at_work_is_told_apart(tmp_path):
    p = program("unused", **QUIET, data__encodings=tmp_path / "made")
    with disk.held(partial_of(tmp_path / "made") / ".lock"), pytest.raises(ConfigError, match="another program"):
        encode.encode(p)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(path, records):
        next(records)
        path.write_bytes(b"half")
        raise RuntimeError(f"write() failed: No space left on device; writing {path}; Failed to close chunk_writer")

    given = ["--mode=encode", *arguments(tmp_path / "run", **QUIET, data__encodings=tmp_path / "made")]
    with monkeypatch.context() as patched:
        patched.setattr(encode, "write_shard", full)
        assert main_jax.main(given) == 1
    said = capsys.readouterr().err
    assert "array_record: No space left on device; make room" in said and said.count("\n") == 1
    assert sorted(path.name for path in partial_of(tmp_path / "made").iterdir()) == [".lock", "plan.json"]
    monkeypatch.setattr(disk, "free_bytes", lambda path: 10**5)
    with pytest.raises(DiskError, match="the encodings need 1.8 MB and 100.0 kB are free"):
        encode.encode(program("unused", **QUIET, data__encodings=tmp_path / "made"))


class Unreadable:
    """A split of which one record cannot be read."""

    def __init__(self, records, which):
        self.records, self.which = records, which

    def __len__(self):
        return len(self.records)

    def __getattr__(self, name):
        return getattr(self.records, name)

    def __getitem__(self, i):
        if i == self.which:
            raise DataError("is broken")
        return self.records[i]


def test_a_record_that_cannot_be_read_is_left_out_as_it_is_of_images(tmp_path):
    def broken(**fields):
        p = program(tmp_path / "run", **QUIET, data__on_error="skip", **fields)
        split = {name: Unreadable(p.dataset.open(name), 7) for name in p.dataset.sizes}
        return replace(p, dataset=replace(p.dataset, open=split.__getitem__))

    images, kept = broken(), broken(data__encodings=tmp_path / "made")
    encode.encode(kept)
    with pytest.raises(DataError, match="record 7 could not be read when the set was encoded"):
        encoded.of_split(kept, "test")[0][7]
    of_images, of_kept = (feed.loader(p, "train", training=True) for p in (images, kept))
    for step in range(of_images.steps_per_epoch):
        one, other = of_images.batch(step), of_kept.batch(step)
        np.testing.assert_array_equal(one.id, other.id)
        np.testing.assert_array_equal(one.valid, other.valid)
        np.testing.assert_array_equal(one.cond["label"], other.cond["label"])


def test_what_is_not_finite_is_refused_by_number(tmp_path):
    p = program("unused", **QUIET, encode__dtype="float16", data__encodings=tmp_path / "made")
    codec = p.diffusion.codec
    large = replace(codec, encode=lambda frozen, images: codec.encode(frozen, images) * 1e6)
    p = replace(p, diffusion=replace(p.diffusion, codec=large))
    with pytest.raises(DataError, match="record 0: its encoding is not finite in float16"):
        encode.encode(p)
    assert not (tmp_path / "made").exists()


def test_any_other_array_of_a_record_is_a_condition(tmp_path, monkeypatch):
    """What a frozen text encoder will add: tokens [l d] and which of them are valid [l]."""
    make = encode.encode_step

    def with_text(p):
        step = make(p)

        def both(frozen, batch):
            found = step(frozen, batch)
            text = jnp.cos(found["label"][:, None, None] + jnp.arange(6.0).reshape(1, 2, 3))
            return found | {"text": text, "text_valid": jnp.arange(2)[None] <= found["label"][:, None] % 2}

        return both

    monkeypatch.setattr(encode, "encode_step", with_text)
    p = program("unused", **QUIET, data__encodings=tmp_path / "made")
    encode.encode(p)
    batch = feed.loader(p, "train", training=True).batch(2)
    label = batch.cond["label"]
    np.testing.assert_allclose(
        batch.cond["text"], np.cos(label[:, None, None] + np.arange(6.0).reshape(1, 2, 3)), atol=1e-6
    )
    np.testing.assert_array_equal(batch.cond["text_valid"], np.arange(2) <= label[:, None] % 2)


def test_a_run_changes_to_encodings_knowingly(of_codec, folder, tmp_path, capsys):
    run = shutil.copytree(of_codec, tmp_path / "run")
    goes_on = arguments(run, **(CODEC | {"eval__metrics": "()"}), data__encodings=folder, train__steps=13)
    assert main_jax.main(goes_on) == 4
    assert "trained on other data:\n  fingerprint: saved" in capsys.readouterr().err
    assert main_jax.main([*goes_on, "--config.resume.allow=data"]) == 0
    said = json.loads((run / "config.json").read_text())
    assert said["data"]["encodings"] == str(folder)
