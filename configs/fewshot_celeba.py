"""Few-shot CelebA at 64x64 with FSDM's sizes: five photographs of a person never seen, and more of them.

    python main_jax.py --config=configs/fewshot_celeba.py      # FiLM
    python main_jax.py --config=configs/fewshot_celeba.py:lag  # cross-attention

Data: identities with 20 photographs or more, ``python scripts/make_fewshot.py celeba --out=data/fewshot``
(docs/fewshot_data.md). As configs/fewshot_cifar100.py, one level deeper and with mirrored targets.
Not measured yet: no data set was at hand.
"""

from configs.fewshot_cifar100 import get_config as fewshot


def get_config(inject: str = "film"):
    c = fewshot(inject).unlock()
    c.name = "fewshot_celeba" + ("" if inject == "film" else f"_{inject}")
    c.data.fewshot.name = "celeba"
    c.data.fewshot.test_fraction = 0.3
    c.data.flip = True
    c.net.unet.mults = (1, 2, 2, 2, 2)
    c.net.unet.attention = (2, 3)
    c.eval.num_classes = 200
    c.eval.num_samples_per_class = 20
    return c.lock()
