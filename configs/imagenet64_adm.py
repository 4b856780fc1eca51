"""Class-conditional ImageNet at 64x64 as ADM trains it (Dhariwal & Nichol 2021, table 11).

    python main_jax.py --config=configs/imagenet64_adm.py

Data: TFDS ``imagenet_resized/64x64``, prepared once in array_record format (README, "Your own images").
Not measured yet: no data set was at hand. ADM reports FID 2.07 with 250 ancestral steps after 540,000 steps of 2,048.
Cosine schedule, learned variance, dropout .1 and rate 3e-4 are theirs. A pod's worth of memory: lower
``data.batch_size`` or raise ``optim.micro_batches`` on less.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "imagenet64_adm"
    c.data.source = "tfds"
    c.data.tfds.name = "imagenet_resized/64x64"
    c.data.tfds.test_split = "validation"
    c.data.batch_size = 2048
    c.process.schedule = "cosine"
    c.process.target = "learned_variance"
    c.process.sigma_data = 1.0
    c.net.name = "adm_64"
    c.net.adm_64.dropout = 0.1
    c.net.dtype = "bfloat16"
    c.cond.drop = 0.0
    c.optim.lr = 3e-4
    c.optim.adamw.weight_decay = 0.0
    c.optim.schedule = "constant"
    c.optim.clip = "none"
    c.ema.constant.decay = 0.9999
    c.ema.constant.warmup = False
    c.train.steps = 540_000
    c.val.every = 10_000
    c.checkpoint.every = 5_000
    c.sample.every = 10_000
    c.eval.every = 50_000
    c.eval.num_samples = 50_000
    c.eval.num_samples_per_class = 50
    c.eval.batch_size = 512
    c.sampler.name = "ddpm"
    c.sampler.ddpm.variance = "learned"
    c.sampler.steps = 250
    c.sampler.guidance_scale = 1.0
    c.log.every = 100
    return c.lock()
