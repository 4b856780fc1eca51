"""Class-conditional ImageNet at 256x256 as SiT-XL/2 trains it (Ma 2024): DiT's recipe with a linear flow.

    python main_jax.py --config=configs/imagenet256_sit.py --config.data.root=FOLDER

Data: as configs/imagenet256_dit.py takes it.
Not measured yet: no data set was at hand, and nothing here decodes latents: samples are previews and there is no FID.
SiT reports FID 8.61 without guidance and 2.15 with a scale of 1.5 (Heun, 250 calls), after 7 million steps of 256.
"""

from configs.imagenet256_dit import get_config as imagenet256_dit


def get_config():
    c = imagenet256_dit().unlock()
    c.name = "imagenet256_sit"
    c.process.schedule = "flow"
    c.process.target = "velocity"
    c.sampler.name = "heun"
    c.sampler.steps = 125
    return c.lock()
