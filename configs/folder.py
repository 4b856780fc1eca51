"""Class folders of small images, as they lie on the disk.

    python main_jax.py --config=configs/folder.py --config.data.root=PATH --workdir=runs/mine

Data: PATH holds one folder of images per class, however many and of whatever sizes and modes:

    PATH/Abnormal/0001.png  PATH/Abnormal/0002.png  …
    PATH/Normal/a.jpg       PATH/Normal/b.jpg       …

Size and channels are derived from the images and printed (`data.size=40 data.channels=1` says them instead). 15 % of
every class are validated on and 15 % tested on, drawn by `data.split_seed`; split.json in the workdir lists every file,
and a folder that changed afterwards is refused. Where PATH holds train/, val/ and test/, these are the splits.
`data.flip=true` where a mirrored image is as good as the image.
Hardware: one GPU, or a CPU for images of 40x40 and some patience. Not measured yet.
"""

from configs.default import get_config as default


def get_config():
    c = default().unlock()
    c.name = "folder"
    c.data.source = "folder"
    c.data.size = -1
    c.data.channels = 0
    c.data.flip = False
    c.data.batch_size = 64
    c.process.schedule = "edm"
    c.process.target = "edm"
    c.objective.density = "lognormal"
    c.objective.weighting = "edm"
    c.net.name = "unet"
    c.net.unet.channels = 64
    c.net.unet.mults = (1, 2, 2)
    c.net.unet.attention = (2,)
    c.optim.lr = 1e-3
    c.optim.adamw.b2 = 0.99
    c.optim.warmup_cosine.warmup_steps = 200
    c.ema.constant.decay = 0.999
    c.train.steps = 10_000
    c.val.every = 250
    c.checkpoint.every = 500
    c.sample.every = 1000
    c.sampler.name = "dpmpp_2m"
    c.sampler.grid = "karras"
    c.sampler.steps = 20
    c.sampler.guidance_scale = 1.5
    return c.lock()
