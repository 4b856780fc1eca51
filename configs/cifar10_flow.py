"""Class-conditional CIFAR-10 by flow matching (Lipman 2023), at the rate, length and average of Tong 2024.

    python main_jax.py --config=configs/cifar10_flow.py --config.data.root=TFDS_FOLDER

Data: TFDS's cifar10, 50,000 images of 32x32, prepared once without this program (the message says how).
Hardware: not tried yet, nothing measured.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "cifar10_flow"
    c.data.source = "tfds"
    c.data.tfds.name = "cifar10"
    c.data.batch_size = 128
    c.data.flip = True
    c.process.schedule = "flow"
    c.process.target = "velocity"
    c.objective.density = "uniform"
    c.objective.weighting = "unit"
    c.net.name = "unet_cifar"
    c.net.unet_cifar.dropout = 0.1
    c.optim.name = "adam"
    c.optim.lr = 2e-4
    c.optim.schedule = "warmup"
    c.optim.warmup.warmup_steps = 5_000
    c.ema.constant.decay = 0.9999
    c.train.steps = 400_000
    c.val.every = 5_000
    c.checkpoint.every = 5_000
    c.sample.every = 10_000
    c.eval.every = 50_000
    c.eval.num_samples_per_class = 1_000
    c.sampler.name = "heun"
    c.sampler.steps = 50
    c.sampler.grid = "uniform"
    c.sampler.guidance_scale = 1.0
    c.sampler.threshold = "none"
    return c.lock()
