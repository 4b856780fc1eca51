"""Ten class folders of digits, three of them cut to 60 images: what small, uneven sets need, on two CPU cores.

    python main_jax.py --config=configs/digits_imbalanced.py

Data: scikit-learn's handwritten digits, 8x8, inside the package; the run writes them as PNGs into digits/ of its
workdir, 60 each of 3, 5 and 8 and all of the others, and reads them as any folder of class folders.
Not measured yet.
"""

from configs.digits import get_config as digits


def get_config():
    c = digits().unlock()
    c.name = "digits_imbalanced"
    c.data.source = "digits_folder"
    c.data.root = "{workdir}/digits"
    c.data.batch_size = 64
    return c.lock()
