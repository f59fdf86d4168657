"""Run steps of a plain CycleGAN or a plain pix2pix in PyTorch, in an interpreter that has torch.

  python -m benchmarks.sides.torch_translation_side METHOD RESOLUTION MINIBATCH [--OPTION]

They are written from the papers (Zhu et al. 2017, Isola et al. 2017) in the obvious way: eager,
NCHW, the generators' step first in CycleGAN and the discriminator's in pix2pix. Networks have as
many parameters as ours: no biases before norms. The first line printed gives their number; then
every line on stdin is answered with a line of JSON, one timed step each, or, with --generation,
photos that pix2pix draws from a minibatch of maps. Neither TensorFlow nor this program's own
networks are needed.
"""

import argparse
import itertools
import json
import random
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

LRATE, BETAS, INIT_STD = 2e-4, (0.5, 0.999), 0.02
CYCLE_WEIGHT, L1_WEIGHT, POOL = 10.0, 100.0, 50


def norm(fmaps, affine):
    """Return an instance norm."""
    return nn.InstanceNorm2d(fmaps, affine=affine)


class Block(nn.Module):
    """A residual block of Zhu et al.'s generator."""

    def __init__(self, fmaps):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(fmaps, fmaps, 3, bias=False), norm(fmaps, False),
            nn.ReLU(True), nn.ReflectionPad2d(1), nn.Conv2d(fmaps, fmaps, 3, bias=False),
            norm(fmaps, False))

    def forward(self, x):
        return x + self.body(x)


def resnet(fmaps, blocks):
    """Return c7s1-64, d128, d256, blocks, u128, u64, c7s1-3."""
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, fmaps, 7, bias=False), norm(fmaps, False),
              nn.ReLU(True)]
    for i in (1, 2):
        layers += [nn.Conv2d(fmaps * i, fmaps * 2 * i, 3, 2, 1, bias=False),
                   norm(fmaps * 2 * i, False), nn.ReLU(True)]
    layers += [Block(4 * fmaps) for _ in range(blocks)]
    for i in (2, 1):
        layers += [nn.ConvTranspose2d(fmaps * 2 * i, fmaps * i, 3, 2, 1, 1, bias=False),
                   norm(fmaps * i, False), nn.ReLU(True)]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(fmaps, 3, 7), nn.Tanh()]
    return nn.Sequential(*layers)


class Unet(nn.Module):
    """pix2pix's U-Net, down to 1x1, with dropout in the three innermost blocks."""

    def __init__(self, resolution, in_channels, fmaps):
        super().__init__()
        depth = resolution.bit_length() - 1
        widths = [fmaps * min(1 << i, 8) for i in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (before, width) in enumerate(itertools.pairwise([in_channels, *widths])):
            normed = 0 < i < depth - 1
            layers = [nn.LeakyReLU(0.2)] if i else []
            layers += [nn.Conv2d(before, width, 4, 2, 1, bias=not normed)]
            self.down.append(nn.Sequential(*layers, *([norm(width, True)] if normed else [])))
        before = widths[-1]
        for number, width in enumerate(widths[-2::-1]):
            dropout = [nn.Dropout(0.5)] if number < 3 else []
            self.up.append(nn.Sequential(
                nn.ReLU(), nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False),
                norm(width, True), *dropout))
            before = 2 * width
        self.last = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(before, 3, 4, 2, 1), nn.Tanh())

    def forward(self, x):
        skips = []
        for layer in self.down:
            skips.append(x := layer(x))
        x = skips.pop()
        for layer in self.up:
            # The innermost features are 2x2 after one block, which is enough for instance norm.
            x = torch.cat([layer(x), skips.pop()], 1)
        return self.last(x)


def patch_gan(in_channels, fmaps, strides, affine):
    """Return C64-C128-C256-C512 and a last convolution."""
    layers, before = [], in_channels
    for i in range(strides + 1):
        width = fmaps * min(1 << i, 8)
        layers += [nn.Conv2d(before, width, 4, 2 if i < strides else 1, 1, bias=i == 0)]
        layers += [norm(width, affine)] if i else []
        layers += [nn.LeakyReLU(0.2, True)]
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 1))


def initialised(network):
    """Draw all kernels of a network from N(0, 0.02), and return it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, INIT_STD)
    return network


def adam(*networks):
    """Return one optimizer for all networks."""
    return torch.optim.Adam(itertools.chain(*(n.parameters() for n in networks)), LRATE, BETAS)


class Pool:
    """Earlier pictures of a generator."""

    def __init__(self):
        self.pictures = []

    def query(self, new):
        """Return the pictures to show for the new ones."""
        shown = []
        for picture in new.split(1):
            if len(self.pictures) < POOL:
                self.pictures.append(picture)
            elif random.random() < 0.5:
                place = random.randrange(POOL)
                self.pictures[place], picture = picture, self.pictures[place]
            shown.append(picture)
        return torch.cat(shown)


def squares(logits, goal):
    """Return the mean squared difference of logits and goal."""
    return (logits - goal).square().mean()


class CycleGan:
    """A step of the generators, then of the critics, which see pictures of the pool."""

    def __init__(self, options):
        self.networks = {name: initialised(resnet(options.fmaps, options.blocks))
                         for name in ("G_AB", "G_BA")}
        self.networks |= {name: initialised(patch_gan(3, options.fmaps, options.strides, False))
                          for name in ("D_A", "D_B")}
        n = self.networks
        self.G_opt, self.D_opt = adam(n["G_AB"], n["G_BA"]), adam(n["D_A"], n["D_B"])
        self.pools = {name: Pool() for name in ("D_A", "D_B")}
        shape = (options.minibatch, 3, options.resolution, options.resolution)
        self.photos = [2 * torch.rand(shape) - 1 for _ in range(2)]

    def __call__(self):
        n, (a, b) = self.networks, self.photos
        for name in ("D_A", "D_B"):
            n[name].requires_grad_(False)
        fake_b, fake_a = n["G_AB"](a), n["G_BA"](b)
        again_a, again_b = n["G_BA"](fake_b), n["G_AB"](fake_a)
        loss = (squares(n["D_B"](fake_b), 1) + squares(n["D_A"](fake_a), 1)
                + CYCLE_WEIGHT * (F.l1_loss(again_a, a) + F.l1_loss(again_b, b)))
        self.G_opt.zero_grad()
        loss.backward()
        self.G_opt.step()
        total = 0.0
        for name, real, fake in (("D_A", a, fake_a), ("D_B", b, fake_b)):
            n[name].requires_grad_(True)
            shown = self.pools[name].query(fake.detach())
            total = total + (squares(n[name](real), 1) + squares(n[name](shown), 0)) / 2
        self.D_opt.zero_grad()
        total.backward()
        self.D_opt.step()
        return loss.detach()


class Pix2Pix:
    """A step of D, then of G through the updated D."""

    def __init__(self, options):
        self.networks = {
            "G": initialised(Unet(options.resolution, options.channels, options.fmaps)),
            "D": initialised(patch_gan(options.channels + 3, options.fmaps, options.strides, True))}
        self.G_opt, self.D_opt = (adam(self.networks[name]) for name in ("G", "D"))
        shape = (options.minibatch, options.channels, options.resolution, options.resolution)
        self.maps = torch.rand(shape)
        self.photos = 2 * torch.rand(shape[0], 3, *shape[2:]) - 1

    def __call__(self):
        G, D = self.networks["G"], self.networks["D"]
        fakes = G(self.maps)
        real, fake = (D(torch.cat([self.maps, photos], 1))
                      for photos in (self.photos, fakes.detach()))
        d_loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        self.D_opt.zero_grad()
        d_loss.backward()
        self.D_opt.step()
        D.requires_grad_(False)
        logits = D(torch.cat([self.maps, fakes], 1))
        loss = F.softplus(-logits).mean() + L1_WEIGHT * F.l1_loss(fakes, self.photos)
        self.G_opt.zero_grad()
        loss.backward()
        D.requires_grad_(True)
        self.G_opt.step()
        return loss.detach()

    def draw(self):
        """Return photos drawn from the maps. As in the paper, dropout stays on."""
        G = self.networks["G"].eval()
        for module in G.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        with torch.inference_mode():
            return G(self.maps)


METHODS = {"cyclegan": CycleGan, "pix2pix": Pix2Pix}


def main(argv):
    """Answer every line on stdin with a timed step, or a minibatch drawn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=METHODS)
    for name in ("resolution", "minibatch"):
        parser.add_argument(name, type=int)
    for name, default in (("fmaps", 64), ("blocks", 9), ("strides", 3), ("channels", 12),
                          ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--generation", action="store_true")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    step = METHODS[options.method](options)
    work = step.draw if options.generation else lambda: step().item()

    def timed():
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return {"wall_sec": time.perf_counter() - wall, "cpu_sec": time.process_time() - cpu}

    timed()
    print(json.dumps({"torch": torch.__version__, "parameters": {
        name: sum(p.numel() for p in network.parameters())
        for name, network in step.networks.items()}}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
