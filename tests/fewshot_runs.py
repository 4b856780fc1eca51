"""A tiny run on sets: seven digits to train on, three it never sees, a transformer of a few numbers for the sets."""

from tests.evaluated import NO_CLASSIFIER

UNSEEN = (3, 6, 9)
SEEN = tuple(digit for digit in range(10) if digit not in UNSEEN)
ENCODERS = {
    "vit": {"vit__patch": 4, "vit__width": 8, "vit__depth": 1, "vit__heads": 2, "vit__head_width": 4, "vit__mlp": 8},
    "unet": {"unet__channels": 4, "unet__mults": (1,), "unet__blocks": 1, "unet__groups": 2, "unet__d": 8},
}


def of_encoder(name: str, **more: object) -> dict[str, object]:
    """Fields of `tests.tiny` for that encoder of sets."""
    fields = {"encoder": name} | ENCODERS[name] | more
    return {f"context__{field}": value for field, value in fields.items()}


SETS = {
    "cond__names": "set",
    "data__test_classes": ",".join(map(str, UNSEEN)),
    "data__threads": 0,
    **of_encoder("vit"),
    **NO_CLASSIFIER,
}
