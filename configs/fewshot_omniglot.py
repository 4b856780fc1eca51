"""Few-shot Omniglot at 28x28 with FSDM's sizes: characters of alphabets never seen, from five drawings.

    python main_jax.py --config=configs/fewshot_omniglot.py      # FiLM
    python main_jax.py --config=configs/fewshot_omniglot.py:lag  # cross-attention

Data: ``python scripts/make_fewshot.py omniglot --out=data/fewshot`` (docs/fewshot_data.md), 964 characters to train on,
659 never seen. Six of the 20 drawings of each are held out, so that supports have five. As configs/fewshot_cifar100.py,
with patches of 7, which divide 28. Sets are also shown turned and mirrored, so that each character gives eight.
Not measured yet: no data set was at hand.
"""

from configs.fewshot_cifar100 import get_config as fewshot


def get_config(inject: str = "film"):
    c = fewshot(inject).unlock()
    c.name = "fewshot_omniglot" + ("" if inject == "film" else f"_{inject}")
    c.data.fewshot.name = "omniglot"
    c.data.fewshot.test_fraction = 0.3
    c.sets.symmetries = True
    c.context.vit.patch = 7
    c.net.unet.mults = (1, 2, 2)
    c.eval.num_classes = 200
    c.eval.num_samples_per_class = 20
    return c.lock()
