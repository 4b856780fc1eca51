"""Class-conditional ImageNet at 256x256 as DiT-XL/2 trains it (Peebles & Xie 2023), on latents encoded before.

    python main_jax.py --config=configs/imagenet256_dit.py --config.data.root=FOLDER

Data: a folder with ``latents.npy`` float16 [n 32 32 4], Stable Diffusion's autoencoder's latents before the factor
.18215, and ``labels.npy`` int [n].
Not measured yet: no data set was at hand, and nothing here decodes latents: samples are previews and there is no FID.
DiT reports FID 9.62 without guidance and 2.27 with a scale of 1.5, after 7 million steps of 256. Linear schedule,
learned variance, constant rate 1e-4, no weight decay, EMA .9999 and a label dropped in one of ten are theirs.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "imagenet256_dit"
    c.data.source = "latents"
    c.codec.name = "latents"
    c.codec.latents.scale = 0.18215
    c.data.batch_size = 256
    c.process.schedule = "linear"
    c.process.target = "learned_variance"
    c.process.sigma_data = 1.0
    c.net.name = "dit_xl_2"
    c.net.dtype = "bfloat16"
    c.cond.drop = 0.1
    c.cond.label.d = 1152
    c.optim.lr = 1e-4
    c.optim.adamw.weight_decay = 0.0
    c.optim.schedule = "constant"
    c.optim.clip = "none"
    c.ema.constant.decay = 0.9999
    c.ema.constant.warmup = False
    c.train.steps = 7_000_000
    c.val.every = 10_000
    c.checkpoint.every = 10_000
    c.sample.every = 50_000
    c.sample.per_class = 4
    c.eval.metrics = ()
    c.sampler.name = "ddpm"
    c.sampler.ddpm.variance = "learned"
    c.sampler.steps = 250
    c.sampler.guidance_scale = 1.5
    c.sampler.threshold = "none"
    c.log.every = 100
    return c.lock()
