"""Few-shot miniImageNet at 32x32 with FSDM's sizes: 64 classes to train on, 20 never seen.

    python main_jax.py --config=configs/fewshot_miniimagenet.py      # FiLM
    python main_jax.py --config=configs/fewshot_miniimagenet.py:lag  # cross-attention

Data: ``python scripts/make_fewshot.py miniimagenet --out=data/fewshot`` (docs/fewshot_data.md).
As configs/fewshot_cifar100.py, with mirrored targets. Not measured yet: no data set was at hand.
"""

from configs.fewshot_cifar100 import get_config as fewshot


def get_config(inject: str = "film"):
    c = fewshot(inject).unlock()
    c.name = "fewshot_miniimagenet" + ("" if inject == "film" else f"_{inject}")
    c.data.fewshot.name = "miniimagenet"
    c.data.flip = True
    return c.lock()
