"""Every field of a config, once, with its unit and meaning. A recipe starts from here and changes what it must.

A section with a choice holds its shared fields and one sub-dict for each row of its table that has fields of its own:
``--config.sampler.name=ddim --config.sampler.ddim.eta=1``. Fields named ``every`` count steps from 0 of the whole run.
"""

from ml_collections import ConfigDict

from diffusion.augment import AUGMENTS
from diffusion.data.balance import BALANCES, CLASS_WEIGHTS
from diffusion.data.sources import SOURCES
from diffusion.ema import EMAS
from diffusion.extractors import EXTRACTORS, PERCEPTUAL
from diffusion.guidance import THRESHOLDS
from diffusion.lr_schedules import LR_SCHEDULES
from diffusion.nets.backbones import NETS
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import CONDITIONS
from diffusion.nets.contexts import CONTEXTS
from diffusion.nets.set_encoders import SET_ENCODERS
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS
from diffusion.process import TARGETS
from diffusion.samplers import GRIDS, SAMPLERS
from diffusion.schedules import SCHEDULES
from diffusion.tables import rows


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.name = "default"  # of the run: the workdir is runs/NAME unless --workdir says otherwise
    c.seed = 0  # of weights, order, noise, samples; 0 or more
    c.init_from = ""  # WORKDIR or WORKDIR:STEP of another run whose EMA weights this one starts from
    # parts of the net that start from elsewhere, over init_from: "label:FILE.safetensors" (scripts/save_part.py) or
    # "label:WORKDIR", "label:WORKDIR:STEP" of another run. Parts: backbone, a condition's name, augment, uncertainty
    c.init_parts = ()

    c.data = dict(
        # a row: digits, digits_folder (as PNGs, three digits rare), tfds, folder, npz, fewshot (files of classes),
        # latents (encoded before; codec.name=latents)
        source="digits",
        # folder or file that the source reads; its own default where empty. "{workdir}" in it is the run's folder
        root="",
        # folder of encodings of these very images, made by --mode=encode with the same config, which training and
        # validation read in place of images; empty encodes them in every step. "{workdir}" as above (docs/encodings.md)
        encodings="",
        split_seed=0,  # of the stratified split
        # pixels: resize the short side, crop the centre; 0 keeps the data's size; -1 derives one from the images: their
        # median short side to a multiple of 8, from 8 to 64
        size=0,
        channels=0,  # 1 grey, 3 RGB, 0 as the data is
        # of training images, at random; drawn images show it too (with augment.name=edm they do not)
        flip=False,  # mirror them; never for digits or text
        rotate=0.0,  # degrees, up to 180: turn them by up to so much either way; what comes in is the reflection
        jitter=0.0,  # brightness and contrast times factors in [1 - jitter, 1 + jitter), below 1
        batch_size=64,  # images per step over all devices and processes
        threads=4,  # that read ahead on the host; 0 reads when asked
        prefetch=8,  # batches read ahead on the host
        on_error="raise",  # what an unreadable record does: raise, or skip (its row does not count; it is listed)
        max_skipped=100,  # with skip: more different records than this, of all splits, end the run; at least 1
        # classes by name or index that are trained on, and that never are; of one alone the other has all the rest,
        # of both empty the source says (fewshot), or every class is trained on
        train_classes=(),
        test_classes=(),
        num_test_classes=0,  # or so many that never are, drawn by split_seed
        **rows(SOURCES),
    )
    c.balance = dict(  # of the classes in training alone; rows of one name share their fields
        # how often a class is drawn: none (every image once an epoch), inverse_frequency, effective_number, manual (the
        # epoch keeps its length), upsample (to ratio of the largest class), downsample (to the smallest over ratio)
        sampling="none",
        loss="none",  # factor on a class's loss, mean 1 over what is drawn: inverse_frequency, effective_number, manual
        **rows(BALANCES) | rows(CLASS_WEIGHTS),
    )
    c.sets = dict(  # of images of one class, for cond.names=set: a target is drawn from the others of its set
        size=6,  # images of a set
        min_size=0,  # above 0: every set shows a number of images drawn from min_size to size
        targets=0,  # images of a set that are learned in an epoch, drawn by the seed; 0 all
        leave_one_out=True,  # false: the target is one of the images that it is drawn from
        symmetries=False,  # show each set in one of the square's 8 symmetries, which makes more classes of few
    )
    c.augment = dict(  # of training images, on the device; the net is told what was done, and draws images as they are
        name="none",  # or edm, which mirrors and turns: never for digits or text, and not with data.flip
        **rows(AUGMENTS),
    )
    c.process = dict(
        # (alpha, sigma) of t: linear, scaled_linear, quadratic, cosine, sigmoid, vp, sub_vp, ve, edm, flow, gvp,
        # decoupled
        schedule="cosine",
        # what the net answers: x0, eps, v, velocity, edm, learned_variance; decoupled, decoupled_linear
        target="v",
        sigma_data=0.5,  # standard deviation of the data, in the net's units
        **rows(SCHEDULES),
        **rows(TARGETS),
    )
    c.objective = dict(
        density="uniform",  # of training times: uniform, stratified, lognormal, logit_normal, importance
        # of the loss at t: unit, min_snr, soft_min_snr, p2, edm, velocity, uncertainty; bounded_exp, ddm (decoupled)
        weighting="unit",
        **rows(DENSITIES),
        **rows(WEIGHTINGS),
    )
    # what the net works on: pixels, latents (encoded before), random_conv (a codec of random weights, to try things)
    c.codec = dict(name="pixels", **rows(CODECS))
    c.net = dict(
        name="unet",  # unet, edm2, dit; with published sizes unet_cifar, adm_64, edm2_xs, edm2_s, dit_*_2, jit_b_16
        dtype="float32",  # of the computation: float32 or bfloat16; weights stay float32
        **rows(NETS),
    )
    c.cond = dict(
        names=("label",),  # conditions that the net sees: label, set (of images, see context); () is unconditional
        drop=0.1,  # chance that one condition of an example becomes its learned null
        drop_all=0.0,  # chance that all of them do together
        **rows(CONDITIONS),
    )
    c.context = dict(  # what cond.names=set makes of a set of images
        encoder="vit",  # vit (all images' patches together), unet (each image by itself), vit_set (images stacked)
        # film (scale and shift of norms), lag (cross-attention), both; grid (channels beside the noisy image), all
        inject="film",
        channels=16,  # of the grid
        kind="deterministic",  # deterministic, gaussian (a draw, with KL), discrete (a codebook)
        **rows(SET_ENCODERS),
        **rows(CONTEXTS),
    )
    c.optim = dict(
        name="adamw",
        lr=1e-3,  # peak learning rate
        schedule="warmup_cosine",  # of the rate over updates
        clip="global_norm",  # of gradients: none, global_norm, adaptive
        part_lrs=(),  # factors on the rate of parts of the net (see init_parts): "label:0.1"
        freeze=(),  # parts that stand still: "label:500" for the first 500 updates, "label:always"
        micro_batches=1,  # gradient accumulation: the batch in so many parts
        **rows(OPTIMIZERS),
        **rows(CLIPS),
        **rows(LR_SCHEDULES),
    )
    c.ema = dict(
        name="constant",  # of the weights: constant, halflife, power (several widths at once)
        every=1,  # updates between two moves of the averages
        use="",  # the average that is validated, sampled, evaluated and ranked, by name; empty is the first
        # (--mode=sample and eval also take posthoc:0.07, what --mode=posthoc made)
        snapshot_every=0,  # steps between snapshots of power's averages, of which posthoc makes others; 0 never
        **rows(EMAS),
    )
    c.train = dict(
        steps=1000,  # batches in the whole run
        max_minutes=0.0,  # stop, save and exit 75 after so long; 0 never
        max_bad_steps=10,  # bad steps in a row that end the run with exit 3: loss or gradient not finite, or max_loss
        max_loss=0.0,  # a batch whose mean loss is above it is skipped, as a bad step; 0 allows any finite one
        # measurements of checkpoint.best_metric in a row, none of them better, that end the run; 0 trains all steps
        patience=0,
        debug=False,  # after a bad step, name the first layer whose output is not finite; slower: waits for every step
    )
    c.val = dict(every=250)  # steps between validation losses (fixed t and noise; EMA and raw weights); 0 never
    c.checkpoint = dict(
        every=250,  # steps between checkpoints; the last step is always saved
        keep=2,  # newest checkpoints kept
        keep_best=1,  # best checkpoints kept beside them
        keep_every=0,  # steps between checkpoints that are kept for good, and saved for it; 0 keeps none so
        best_metric="loss",  # any logged name; loss is val/loss, or train/loss without validation
        best_mode="auto",  # min, max, or auto by the metric's name
        resume="auto",  # auto goes on where the workdir stands; never refuses a workdir that holds a run
    )
    c.resume = dict(allow=())  # fields that may differ from the saved run's, by name: ("optim.lr",)
    c.eval = dict(  # docs/evaluation.md says what each figure means
        every=0,  # steps between evaluations; 0 evaluates the end of the run alone
        # fd, fid, kid, kid_subsets, is, precision_recall, density_coverage, accuracy, vendi, memorisation, cmmd,
        # clip_score, lpips, paired; () never evaluates
        metrics=("fd", "kid", "accuracy"),
        # whose features are compared: classifier (of this very set), inception, dinov2, clip, pixels
        extractor="classifier",
        perceptual="classifier",  # whose maps the diversity of lpips is taken on: lpips, classifier
        num_samples=0,  # images of the pooled figures, in the data's class shares; 0 pools the per-class images
        num_samples_per_class=100,  # images per class (of all, without labels); a smaller class at its own size
        equal_n=False,  # every class at the size of the smallest one
        classes="",  # that are evaluated: "cat,3", names or indices; empty is all
        num_classes=0,  # or so many, drawn by eval.seed and the same at every evaluation; 0 is all
        groups="",  # named groups of them with figures of their own: "rare:3,7; pets:cat,dog"
        reference_split="train",  # real images that generated ones are compared with: train, test (or val, of a folder)
        support_split="test",  # whose images the net is shown, for cond.names=set: train or test
        support_size=0,  # images of a support set; 0 as many as training shows
        data="",  # SOURCE:ROOT of another set that --mode=eval and sample take in place of the run's own
        reference="",  # npz of features that another run cached, or of mu and sigma: one more distance, to those
        prompt="a photo of a {}",  # of clip_score, {} being the class's name
        pairs=200,  # of images, over all classes, that lpips compares; they are drawn once more
        images="",  # folder or npz of images that any program made: what --mode=eval compares
        emas=(),  # averages of ema.name=power that are evaluated beside ema.use, by name: 0.05,0.10
        guidance_scales=(),  # evaluated beside sampler.guidance_scale, each with each average: 1.0,2.0
        batch_size=256,  # images generated at a time over all devices
        seed=0,  # of the evaluation's images
        step="latest",  # of the checkpoint that --mode=eval reads: latest, best, a number, or all
        cache="",  # folder of the real images' features, which runs may share; cache/ in the workdir where empty
        **rows(EXTRACTORS) | rows(PERCEPTUAL),  # the perceptual classifier is the same network
    )
    c.sampler = dict(
        name="ddim",  # ddpm, ddim, euler, heun, euler_ancestral, decoupled, dpmpp_2m, dpmpp_2m_sde, unipc
        steps=25,
        # of times: uniform, logsnr, karras, quadratic, shifted, decoupled; on T steps leading, linspace, trailing
        grid="uniform",
        guidance_scale=1.5,  # u + w (c - u): 1 is off, 0 unconditional
        guidance_scales=(),  # instead, a scale for each condition that is named: ("label:2.0",)
        guidance_interval=(0.0, 0.0),  # sigma / alpha above the first, up to the second, with guidance; 0 is no end
        guidance_rescale=0.0,  # share of the condition's own deviation that is given back, 0 to 1
        autoguidance="",  # WORKDIR or WORKDIR:STEP of a weaker net that takes the place of the null
        threshold="clip",  # of x0: none, clip, dynamic
        **rows(SAMPLERS),
        **rows(GRIDS),
        **rows(THRESHOLDS),
    )
    c.sample = dict(
        every=250,  # steps between sample grids; 0 never
        per_class=10,  # images of each class in a grid
        num=64,  # images that --mode=sample makes
        classes="",  # of those: "3,3,7" cycled to num, or "3:20,7:5"; names or indices; empty cycles all
        seed=0,
        step="latest",  # of the checkpoint: latest, best or a number
        out="",  # folder of samples.npz and samples.png; the workdir where empty
        # PNG, npz or folder of PNGs to start from (SDEdit), cycled to the number of images; or data:train, data:test:
        # each image from a real one of its own class
        start="",
        t0=1.0,  # strength: of the schedule's way to noise, (0, 1], at which they start: less keeps more of them
        mask="",  # PNG of the images' size: their light pixels (128 and above) stay (inpainting)
        interpolate=0,  # images between every two, their first noise between the two's; for rules without noise
        trajectory=False,  # also trajectory.png: what was predicted at each step
        pngs=False,  # also images/CLASS/NUMBER.png, one file an image
        support="",  # folder of a few images of anything, of which cond.names=set draws more: png, npz or one image too
    )
    c.encode = dict(  # of --mode=encode, which writes data.encodings
        dtype="float32",  # of what is kept: float32 trains as the codec itself would, float16 rounds to 11 bits
        shard_mb=256,  # size of a file at most, in units of 10^6 bytes, rounded to whole batches
    )
    c.posthoc = dict(
        sigma_rel=0.1,  # relative width of the average that --mode=posthoc makes, in (0, 0.2887)
        step="latest",  # of the snapshot that it ends at: latest or a number
    )
    c.usefulness = dict(  # of --mode=usefulness: does a classifier gain by synthetic images?
        seeds=5,  # classifiers of each arm, each with images of its own
        counts="",  # synthetic images: "cat:200,dog:50" or "200" of each; empty fills every class up to the largest
        images="",  # npz or folder of class folders that any program made, in place of drawn ones
        oversample=1.0,  # times as many are drawn, of which those nearest to real training images are used
        drop_copies=True,  # leave out copies of training images
        small="",  # classes that are looked at by themselves: "cat,3"; empty: those below half of the largest
        step="latest",  # of the checkpoint that draws: latest, best or a number
        seed=0,  # of the first classifier and its images; the others count on from it
        steps=800,  # batches that every classifier is trained for
        batch_size=64,  # images in each
        lr=3e-3,  # peak rate of its AdamW
        weight_decay=0.05,
        shift=1,  # pixels that its training images move by, at most
    )
    c.mesh = dict(
        data=0,  # data times fsdp devices share a batch; 0 takes all that are there
        fsdp=1,  # devices of which each holds its part of weights, EMA and optimiser; 1: every device holds them whole
        strict=0,  # slices, a power of two, in which a batch is reduced: bit-identical on 2, 4, 8, … devices; 0 is off
    )
    c.cluster = dict(  # several processes that train as one; each is started with the same command
        coordinator="",  # host:port of process 0, which all can reach; with processes and process, or not at all
        processes=0,  # how many there are
        process=-1,  # which one this is, from 0
        detect=True,  # without the three: ask SLURM, Open MPI, a TPU pod or Kubernetes; false stays alone
        timeout=300,  # seconds to wait for the others at the start
        heartbeat=100,  # seconds without a sign of life after which a process counts as dead
    )
    c.compile = dict(
        # folder where compiled programs are kept, so that the next start need not compile: auto is one in the user's
        # cache folder, empty is none; JAX_COMPILATION_CACHE_DIR goes before it
        cache="auto",
    )
    # of --mode=bench: also look for the largest batch that fits, with up to 6 more compilations of the train step
    c.bench = dict(largest_batch=False)
    c.log = dict(
        every=50,  # steps between logged metrics
        tensorboard=True,
        wandb=False,  # Weights & Biases; offline without a key
        project="diffusion",  # its project
    )
    return c.lock()
