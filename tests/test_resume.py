import pytest

from diffusion.errors import ConfigError, MismatchError
from diffusion.resume import ABSENT, check_config, completed, config_differences, is_free

SAVED = {
    "seed": 0,
    "optim": {"lr": 1e-3, "name": "adamw"},
    "train": {"steps": 100, "max_minutes": 0.0},
    "ema": {"every": 1},
    "log": {"every": 10, "wandb": True},
    "data": {"classes": [1, 2]},
}


def changed(**fields):
    """SAVED with dotted fields replaced: ``changed(optim__lr=1)``."""
    config = {k: dict(v) if isinstance(v, dict) else v for k, v in SAVED.items()}
    for name, value in fields.items():
        *section, field = name.split("__")
        (config.setdefault(section[0], {}) if section else config)[field] = value
    return config


@pytest.mark.parametrize(
    ("path", "depends", "free"),
    [
        ("train.steps", False, True),
        ("train.steps", True, False),
        ("ema.every", True, True),
        ("ema.snapshot_every", True, True),
        ("ema.use", True, False),
        ("posthoc.sigma_rel", True, True),
        ("usefulness.seeds", True, True),
        ("log.wandb", True, True),
        ("eval.num_samples", True, True),
        ("sample.classes", True, True),
        ("mesh.data", True, True),
        ("train.max_minutes", True, True),
        ("train.debug", True, True),
        ("train.max_loss", False, False),
        ("checkpoint.resume", True, True),
        ("cluster.address", True, True),
        ("data.on_error", True, True),
        ("data.max_skipped", True, True),
        ("data.root", True, False),
        ("data.rotate", False, False),
        ("balance.sampling", False, False),
        ("balance.manual.weights", False, False),
        ("sampler.steps", True, False),
        ("optim.lr", True, False),
        ("seed", True, False),
        ("evaluate", True, False),
        ("train.max_minutes_more", True, False),
    ],
)
def test_what_may_change(path, depends, free):
    assert is_free(path, depends_on_steps=depends) is free


def test_differences_are_by_path_with_both_values():
    wanted = changed(optim__lr=2e-3, seed=False, new__field=3, log__every=5, data__classes=(1, 2))
    del wanted["optim"]["name"]
    found = config_differences(SAVED, wanted, lambda path: path.startswith("log."))
    assert found == [
        ("new.field", ABSENT, 3),
        ("optim.lr", 1e-3, 2e-3),
        ("optim.name", "adamw", ABSENT),
        ("seed", 0, False),
    ]


def test_the_same_config_resumes_and_free_fields_may_differ():
    assert check_config(SAVED, changed(), depends_on_steps=True) == []
    assert check_config(SAVED, changed(log__every=1, train__steps=200, ema__every=4), depends_on_steps=False) == []


def test_a_refusal_names_every_field_with_both_values():
    with pytest.raises(MismatchError) as error:
        check_config(SAVED, changed(optim__lr=2e-3, train__steps=200), depends_on_steps=True)
    assert "optim.lr: saved 0.001, asked 0.002" in str(error.value)
    assert "train.steps: saved 100, asked 200" in str(error.value)
    assert '--config.resume.allow=("optim.lr", "train.steps",)' in str(error.value)


@pytest.mark.parametrize("allow", [("optim.lr",), ("optim",)])
def test_what_is_allowed_knowingly_is_returned_to_be_said(allow):
    wanted = changed(optim__lr=2e-3)
    assert check_config(SAVED, wanted, depends_on_steps=True, allow=allow) == [("optim.lr", 1e-3, 2e-3)]
    with pytest.raises(MismatchError, match="seed"):
        check_config(SAVED, wanted | {"seed": 1}, depends_on_steps=True, allow=allow)


def test_allowing_an_unknown_field_is_refused():
    with pytest.raises(ConfigError, match="^resume.allow: 'optim.lrr'"):
        check_config(SAVED, SAVED, depends_on_steps=True, allow=("optim.lrr",))


def test_fields_that_came_later_stand_at_their_defaults_in_an_older_record():
    defaults = {**SAVED, "seed": 7, "optim": {"lr": 5.0, "name": "sgd", "parts": ()}, "sets": {"size": 6}}
    older = completed(SAVED, defaults)
    assert older == {**SAVED, "optim": {**SAVED["optim"], "parts": ()}, "sets": {"size": 6}}
    wanted = changed(optim__parts=[], sets__size=6)
    assert check_config(older, wanted, depends_on_steps=True) == []
    with pytest.raises(MismatchError, match="sets.size: saved 6, asked 5"):
        check_config(older, changed(optim__parts=[], sets__size=5), depends_on_steps=True)


def test_fields_that_are_gone_are_kept_and_differ():
    older = completed({**SAVED, "gone": 1}, SAVED)
    with pytest.raises(MismatchError, match="gone: saved 1, asked"):
        check_config(older, SAVED, depends_on_steps=True)
