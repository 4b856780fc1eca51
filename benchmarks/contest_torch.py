"""PyTorch's side of the contest: ``python -m benchmarks.contest_torch TASK``, started by ``benchmarks.contest``.

A train step draws times and noise, takes the mean square of v (Salimans & Ho 2022), clips, and updates AdamW (fused)
and the EMA (foreach). Sampling is diffusers' DDIM with guidance in one doubled batch, and ends in uint8 on the host.
"""

import copy
import math
import sys
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, UNet2DModel

from benchmarks import contest_shapes as shapes
from benchmarks.contest_worker import serve, task_of
from benchmarks.torch_dit import DiT

VARIANTS = ("eager", "channels_last", "compile", "compile channels_last")


class UNet(torch.nn.Module):
    """diffusers' U-Net, called as ``torch_dit.DiT`` is."""

    def __init__(self, image: tuple[int, int, int], classes: int, **words):
        super().__init__()
        h, _, c = image
        self.net = UNet2DModel(h, c, c, num_class_embeds=classes + 1, **words)

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.net(x, t, label).sample


KINDS = {"unet": UNet, "dit": DiT}


def main() -> None:
    task = task_of(sys.argv[1])
    shape, words = shapes.SHAPES[task["shape"]], dict(shapes.SHAPES[task["shape"]]["theirs"])
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    net = KINDS[words.pop("kind")](shape["image"], shapes.CLASSES, **words).to(task["device"])
    if "channels_last" in task["variant"]:
        net = net.to(memory_format=torch.channels_last)
    about = {"parameters": sum(p.numel() for p in net.parameters()), "version": f"PyTorch {torch.__version__}"}
    serve(
        {"train": lambda: trainer(net, task), "sample": lambda: sampler(net, task), "peak": lambda: peak(task)}, about
    )


def compiled(net: torch.nn.Module, task: dict) -> Callable:
    return torch.compile(net) if "compile" in task["variant"] else net


def trainer(net: torch.nn.Module, task: dict) -> Callable[[], float]:
    """A function that takes one step and answers its seconds."""
    h, w, c = shapes.SHAPES[task["shape"]]["image"]
    b, device, call = task["batch"], task["device"], compiled(net, task)
    optimiser = torch.optim.AdamW(net.parameters(), shapes.LEARNING_RATE, weight_decay=shapes.WEIGHT_DECAY, fused=True)
    average = list(copy.deepcopy(net).parameters())
    images = torch.randint(0, 256, (b, c, h, w), dtype=torch.uint8, device=device)
    labels = torch.arange(b, device=device) % shapes.CLASSES

    def step() -> float:
        began = time.perf_counter()
        x0 = images.float() / 127.5 - 1
        t, eps = torch.rand(b, device=device), torch.randn_like(x0)
        dropped = torch.rand(b, device=device) < shapes.LABEL_DROP
        alpha, sigma = (f(t * math.pi / 2)[:, None, None, None] for f in (torch.cos, torch.sin))
        x_t = alpha * x0 + sigma * eps
        if "channels_last" in task["variant"]:
            x_t = x_t.contiguous(memory_format=torch.channels_last)
        with half(task):
            v = call(x_t, 1000 * t, torch.where(dropped, shapes.CLASSES, labels))
        loss = (v.float() - (alpha * eps - sigma * x0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), shapes.CLIP_NORM, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1 - shapes.EMA_DECAY)
        wait(device)
        return time.perf_counter() - began

    return step


def sampler(net: torch.nn.Module, task: dict) -> Callable[[], float]:
    """A function that draws one batch and answers its seconds."""
    h, w, c = shapes.SHAPES[task["shape"]]["image"]
    b, device, call, scheduler = task["batch"], task["device"], compiled(net.eval(), task), DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=True
    )  # fmt: skip
    scheduler.set_timesteps(task["sampler_steps"], device=device)
    labels = torch.arange(b, device=device) % shapes.CLASSES
    both = torch.cat([labels, torch.full_like(labels, shapes.CLASSES)])

    @torch.inference_mode()
    def draw() -> float:
        began = time.perf_counter()
        x = torch.randn(b, c, h, w, device=device)
        for t in scheduler.timesteps:
            doubled = torch.cat([x, x])
            if "channels_last" in task["variant"]:
                doubled = doubled.contiguous(memory_format=torch.channels_last)
            with half(task):
                v, null = call(doubled, t.expand(2 * b), both).float().chunk(2)
            x = scheduler.step(null + shapes.GUIDANCE_SCALE * (v - null), t, x).prev_sample
        ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        return time.perf_counter() - began

    return draw


def peak(task: dict) -> Callable[[], float]:
    """A function that takes a matrix product of ``task["side"]`` and answers its seconds."""
    dtype = getattr(torch, task["dtype"])
    a, b = (torch.randn(task["side"], task["side"], device=task["device"]).to(dtype) for _ in range(2))

    def product() -> float:
        began = time.perf_counter()
        torch.mm(a, b)
        wait(task["device"])
        return time.perf_counter() - began

    return product


def half(task: dict) -> torch.autocast:
    return torch.autocast(task["device"], torch.bfloat16, enabled=task["dtype"] == "bfloat16")


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
