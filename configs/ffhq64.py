"""Unconditional faces at 64x64, with Karras 2022's settings for FFHQ (table 7, appendix F).

    python main_jax.py --config=configs/ffhq64.py --config.data.root=ffhq64.npz

Data: one archive with ``images`` u8[70000 64 64 3] (FFHQ, shrunk by its authors' script); a hundredth is held out.
Hardware: eight V100 GPUs for four days in the paper. Its FID with 40 steps of Heun (79 calls of the net): 2.39.
Not measured here yet: without labels there is no classifier whose features to compare, so the loss alone is followed.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "ffhq64"
    c.data.source = "npz"
    c.data.npz.test_fraction = 0.01
    c.data.batch_size = 256
    c.augment.name = "edm"
    c.augment.edm.p = 0.15
    c.process.schedule = "edm"
    c.process.target = "edm"
    c.objective.density = "lognormal"
    c.objective.weighting = "edm"
    c.cond.names = ()
    c.net.name = "unet_cifar"
    c.net.unet_cifar.mults = (1, 2, 2, 2)
    c.net.unet_cifar.attention = (2,)
    c.net.unet_cifar.dropout = 0.05
    c.optim.name = "adam"
    c.optim.lr = 2e-4
    c.optim.schedule = "warmup"
    c.optim.warmup.warmup_steps = 39_062  # 10 million images
    c.optim.clip = "none"
    c.ema.name = "halflife"
    c.ema.halflife.updates = 1953.0  # 500,000 images
    c.train.steps = 781_250  # 200 million images
    c.val.every = 10_000
    c.checkpoint.every = 10_000
    c.sample.every = 10_000
    c.eval.metrics = ()
    c.sampler.name = "heun"
    c.sampler.steps = 40
    c.sampler.grid = "karras"
    c.sampler.guidance_scale = 1.0
    c.sampler.threshold = "none"
    return c.lock()
