import json

import jax

from diffusion.environment import environment


def test_the_environment_is_plain_json():
    found = json.loads(json.dumps(environment()))
    assert found["devices"] == jax.device_count() and found["packages"]["jax"] == jax.__version__
