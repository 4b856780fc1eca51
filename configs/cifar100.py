"""Class-conditional CIFAR-100: the recipe of configs/cifar10_edm.py with a hundred classes.

    python main_jax.py --config=configs/cifar100.py --config.data.root=TFDS_FOLDER

Data: TFDS's cifar100, 50,000 images of 32x32, prepared once without this program (the message says how).
Hardware: as much as CIFAR-10. Not measured here yet; the paper has no such run.
"""

from configs.cifar10_edm import get_config as cifar10


def get_config():
    c = cifar10().unlock()
    c.name = "cifar100"
    c.data.tfds.name = "cifar100"
    c.eval.num_samples_per_class = 500
    return c.lock()
