"""Few-shot CIFAR-100 with FSDM's sizes (Giannone et al. 2022): five images of a class never seen, and more of it.

    python main_jax.py --config=configs/fewshot_cifar100.py                     # FiLM
    python main_jax.py --config=configs/fewshot_cifar100.py:lag                 # cross-attention
    python main_jax.py --config=configs/fewshot_cifar100.py --config.cond.names=  # FSDM's baseline DDPM

Data: data/fewshot/{train,val,test}_cifar100.npz, 60/20/20 classes of FC100 (docs/fewshot_data.md), which
``python scripts/make_fewshot.py cifar100 --out=data/fewshot`` writes. U-Net of 64 channels; ViT of 6 layers x 12
heads x 256 with patches of 8; sets of 6; 200,000 steps.
Not measured yet: no data set was at hand. FSDM reports, on 10,000 samples, FID in/out: DDPM 15.35/62.84, ViT-FiLM
13.34/45.50, ViT-LAG with mean_patch 10.22/35.07; for FID take eval.extractor=inception and eval.metrics=fid,kid.
Not FSDM's: cosine schedule, v target, DDIM with 50 steps, EMA, conditions dropped and guidance 1.5.
"""

from configs.default import get_config as default


def get_config(inject: str = "film"):
    c = default().unlock()
    c.name = "fewshot_cifar100" + ("" if inject == "film" else f"_{inject}")
    c.data.source = "fewshot"
    c.data.root = "data/fewshot"
    c.data.fewshot.name = "cifar100"
    c.data.batch_size = 192  # 32 whole sets
    c.sets.size = 6
    c.cond.names = ("set",)
    c.context.encoder = "vit"
    c.context.inject = inject
    c.context.vit.patch = 8
    c.context.vit.width = 256
    c.context.vit.depth = 6
    c.context.vit.heads = 12
    c.context.vit.head_width = 64
    c.context.vit.mlp = 256
    c.context.vit.pool = "mean_patch"
    c.net.unet.channels = 64
    c.net.unet.mults = (1, 2, 2, 2)
    c.net.unet.blocks = 2
    c.net.unet.attention = (1, 2)
    c.optim.lr = 2e-4
    c.optim.adamw.weight_decay = 0.0
    c.optim.schedule = "constant"
    c.ema.constant.decay = 0.9999
    c.train.steps = 200_000
    c.val.every = 5_000
    c.checkpoint.every = 5_000
    c.sample.every = 10_000
    c.eval.every = 50_000
    c.eval.num_samples_per_class = 100
    c.sampler.steps = 50
    c.log.every = 100
    return c.lock()
