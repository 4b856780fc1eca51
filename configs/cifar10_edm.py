"""Class-conditional CIFAR-10, as Karras 2022 trains it (EDM, tables 1 and 7, appendix F).

    python main_jax.py --config=configs/cifar10_edm.py --config.data.root=TFDS_FOLDER

Data: TFDS's cifar10, 50,000 images of 32x32, prepared once without this program (the message says how).
Hardware: eight V100 GPUs for two days in the paper. Its FID with 18 steps of Heun (35 calls of the net): 1.79.
Not measured here yet.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "cifar10_edm"
    c.data.source = "tfds"
    c.data.tfds.name = "cifar10"
    c.data.batch_size = 512
    c.augment.name = "edm"
    c.augment.edm.p = 0.12
    c.process.schedule = "edm"
    c.process.target = "edm"
    c.objective.density = "lognormal"
    c.objective.weighting = "edm"
    c.cond.drop = 0.0  # the paper guides nothing
    c.net.name = "unet_cifar"
    c.net.unet_cifar.dropout = 0.13
    c.optim.name = "adam"
    c.optim.lr = 1e-3
    c.optim.schedule = "warmup"
    c.optim.warmup.warmup_steps = 19_531  # 10 million images
    c.optim.clip = "none"
    c.ema.name = "halflife"
    c.ema.halflife.updates = 977.0  # 500,000 images
    c.train.steps = 390_625  # 200 million images
    c.val.every = 5_000
    c.checkpoint.every = 5_000
    c.sample.every = 5_000
    c.eval.every = 50_000
    c.eval.num_samples_per_class = 1_000
    c.sampler.name = "heun"
    c.sampler.steps = 18
    c.sampler.grid = "karras"
    c.sampler.guidance_scale = 1.0
    c.sampler.threshold = "none"
    return c.lock()
