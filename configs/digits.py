"""Class-conditional digits on two CPU cores.

    python main_jax.py --config=configs/digits.py

Data: scikit-learn's 1,797 handwritten digits, 8x8, inside the package.
Measured on two shared x86-64 cores (JAX 0.10.2, float32): 3.1 to 4.9 minutes in all, compilation included;
FD[cls-digits-ebb5c7f3] 0.187 pooled, 0.82 ± 0.17 mean over classes (100 images each), 99.6 % read as asked.
EDM's preconditioning and ten steps of DPM-Solver++ won the comparison in docs/toolbox.md.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "digits"
    c.data.source = "digits"
    c.data.batch_size = 64
    c.process.schedule = "edm"
    c.process.target = "edm"
    c.objective.density = "lognormal"
    c.objective.weighting = "edm"
    c.net.name = "unet"
    c.net.unet.channels = 32
    c.net.unet.mults = (1, 2)
    c.net.unet.attention = (1,)
    c.optim.lr = 2e-3
    c.optim.adamw.b2 = 0.99
    c.optim.warmup_cosine.warmup_steps = 100
    c.ema.constant.decay = 0.995
    c.train.steps = 1000
    c.eval.batch_size = 128
    c.sampler.name = "dpmpp_2m"
    c.sampler.grid = "karras"
    c.sampler.steps = 10
    c.sampler.guidance_scale = 1.5
    return c.lock()
