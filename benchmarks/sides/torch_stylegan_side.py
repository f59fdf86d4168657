"""Run a plain StyleGAN turn in PyTorch, of equal size, in an interpreter that has torch.

  python -m benchmarks.sides.torch_stylegan_side speed RESOLUTION CHANNELS MINIBATCH [--OPTION]
  python -m benchmarks.sides.torch_stylegan_side time RESOLUTION CHANNELS MINIBATCH [--OPTION]
  python -m benchmarks.sides.torch_stylegan_side values CASE.npz OUT.npz

It is written from the papers (Karras et al. 2018 and 2019) in the obvious way: nearest upscaling,
then a convolution; a convolution, then averaging; eager; NCHW. The algorithm is the same as ours,
which `values` serves to prove. `speed` answers every line on stdin with a line of JSON, one timed
turn each; `time` times turns by itself, for example on a GPU (--device=cuda), where it also reports
memory. Neither TensorFlow nor this program's own networks are needed.
"""

import argparse
import copy
import itertools
import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.config import num_fmaps

R1_GAMMA, SMOOTHING_NIMG, LRATE = 10.0, 10000, 0.001
MIXING_PROB, W_BETA = 0.9, 0.995
MAPPING_LRMUL, MAPPING_LAYERS = 0.01, 8
HE_GAIN = math.sqrt(2)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Scaled(nn.Module):
    """A layer with equalised learning rate: a kernel [out, in, ...], its scale, a bias."""

    def __init__(self, shape, gain=HE_GAIN, lrmul=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / lrmul)
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.scale, self.lrmul = gain / math.sqrt(math.prod(shape[1:])) * lrmul, lrmul

    def kernel(self):
        return self.weight * self.scale

    def forward(self, x):
        bias = self.bias * self.lrmul
        if self.weight.ndim == 2:
            return F.linear(x, self.kernel(), bias)
        return F.conv2d(x, self.kernel(), bias, padding=self.weight.shape[-1] // 2)


class Epilogue(nn.Module):
    """Noise, bias, activation, instance norm, style."""

    def __init__(self, fmaps, latent_size):
        super().__init__()
        self.noise = nn.Parameter(torch.zeros(fmaps))
        self.style = Scaled([2 * fmaps, latent_size], gain=1)

    def forward(self, x, bias, w, noise):
        """Apply noise, bias, leaky ReLU, instance norm and style (StyleGAN, figure 1b)."""
        x = x + noise * self.noise[:, None, None] + bias[:, None, None]
        x = F.leaky_relu(x, 0.2)
        x = F.instance_norm(x, eps=1e-8)
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return x * (scale + 1) + shift


def blur(x):
    """Convolve each fmap with [1, 2, 1] x [1, 2, 1] / 16."""
    taps = x.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


class Generator(nn.Module):
    """z [N, latent_size] -> w; w, noise -> images [N, channels, resolution, resolution]."""

    def __init__(self, resolution, channels, widths, latent_size):
        super().__init__()
        self.mapping = nn.ModuleList(
            Scaled([latent_size, latent_size], lrmul=MAPPING_LRMUL) for _ in range(MAPPING_LAYERS))
        self.const = nn.Parameter(torch.ones(1, widths[0], 4, 4))
        self.const_bias = nn.Parameter(torch.zeros(widths[0]))
        self.convs = nn.ModuleList([Scaled([widths[0], widths[0], 3, 3])])
        for before, width in itertools.pairwise(widths):
            self.convs += [Scaled([width, before, 3, 3]), Scaled([width, width, 3, 3])]
        self.epilogues = nn.ModuleList(
            Epilogue(width, latent_size) for width in widths for _ in range(2))
        self.to_rgb = Scaled([channels, widths[-1], 1, 1], gain=1)
        self.register_buffer("w_mean", torch.zeros(latent_size))

    def map(self, z):
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            x = F.leaky_relu(layer(x), 0.2)
        return x

    def forward(self, ws, noise):
        """Return images. ws: one w per layer; noise: [N, 1, size, size] for every layer."""
        x = self.const.expand(len(ws[0]), -1, -1, -1)
        x = self.epilogues[0](x, self.const_bias, ws[0], noise[0])
        for i, conv in enumerate(self.convs, 1):
            x = F.interpolate(x, scale_factor=2) if i > 1 and i % 2 == 0 else x
            x = F.conv2d(x, conv.kernel(), padding=1)
            x = blur(x) if i > 1 and i % 2 == 0 else x
            x = self.epilogues[i](x, conv.bias, ws[i], noise[i])
        return self.to_rgb(x)


class Discriminator(nn.Module):
    """images [N, channels, resolution, resolution] -> scores [N, 1]."""

    def __init__(self, channels, widths, dense):
        super().__init__()
        self.from_rgb = Scaled([widths[-1], channels, 1, 1])
        self.blocks = nn.ModuleList()
        for width, after in zip(widths[:0:-1], widths[-2::-1]):
            self.blocks += [Scaled([width, width, 3, 3]), Scaled([after, width, 3, 3])]
        self.conv = Scaled([widths[0], widths[0] + 1, 3, 3])
        self.dense0 = Scaled([dense, 16 * widths[0]])
        self.dense1 = Scaled([1, dense], gain=1)

    def forward(self, x):
        """Return the scores [N, 1] of images [N, channels, r, r]."""
        x = F.leaky_relu(self.from_rgb(x), 0.2)
        for conv0, conv1 in zip(self.blocks[::2], self.blocks[1::2]):
            x = blur(F.leaky_relu(conv0(x), 0.2))
            x = F.avg_pool2d(F.conv2d(x, conv1.kernel(), padding=1), 2)
            x = F.leaky_relu(x + conv1.bias[:, None, None], 0.2)
        x = F.leaky_relu(self.conv(minibatch_stddev(x)), 0.2)
        x = F.leaky_relu(self.dense0(x.flatten(1)), 0.2)
        return self.dense1(x)


def minibatch_stddev(x):
    """Append an fmap: how much the samples i, i + M, i + 2M, ... of a group of 4 differ."""
    group = min(4, len(x))
    y = x.reshape(group, -1, *x.shape[1:])
    y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean([1, 2, 3])
    return torch.cat([x, y.repeat(group)[:, None, None, None].expand(-1, 1, 4, 4)], 1)


class Turn:
    """D step with R1, the average of G, G step."""

    def __init__(self, resolution, channels, minibatch, fmap_base=8192, fmap_max=512,
                 latent_size=512, device="cpu", precision="fp32"):
        self.minibatch, self.resolution, self.channels = minibatch, resolution, channels
        self.latent_size, self.device = latent_size, torch.device(device)
        self.dtype = DTYPES.get(precision)
        last = int(math.log2(resolution))
        widths = [num_fmaps(r - 1, fmap_base, 1.0, fmap_max) for r in range(2, last + 1)]
        dense = num_fmaps(0, fmap_base, 1.0, fmap_max)
        self.G = Generator(resolution, channels, widths, latent_size).to(self.device)
        self.D = Discriminator(channels, widths, dense).to(self.device)
        self.Gs = copy.deepcopy(self.G).requires_grad_(False)
        self.G_opt, self.D_opt = (
            torch.optim.Adam(network.parameters(), LRATE, betas=(0.0, 0.99), eps=1e-8)
            for network in (self.G, self.D))

    def __call__(self, reals):
        """Do a turn on reals [N, channels, resolution, resolution] in [-1, 1]; return (D loss,
        G loss)."""
        self.D_opt.zero_grad()
        d_loss = self.d_loss(reals, *self.draw())
        d_loss.backward()
        self.D_opt.step()
        beta = 0.5 ** (self.minibatch / SMOOTHING_NIMG)
        with torch.no_grad():
            for average, new in zip(self.Gs.parameters(), self.G.parameters()):
                average.copy_(new.lerp(average, beta))
            self.Gs.w_mean.copy_(self.G.w_mean)
        self.G_opt.zero_grad()
        self.D.requires_grad_(False)
        g_loss = self.g_loss(*self.draw())
        g_loss.backward()
        self.D.requires_grad_(True)
        self.G_opt.step()
        return d_loss.detach(), g_loss.detach()

    def draw(self):
        """Return (z, other z, cut: the first layer with the other's styles, noise)."""
        z = torch.randn(2, self.minibatch, self.latent_size, device=self.device)
        layers = len(self.G.epilogues)
        mixes = np.random.random() < MIXING_PROB
        cut = np.random.randint(1, layers) if mixes else layers
        noise = [torch.randn(self.minibatch, 1, 4 << i // 2, 4 << i // 2, device=self.device)
                 for i in range(layers)]
        return z[0], z[1], cut, noise

    def fakes(self, z, other_z, cut, noise):
        """Return images of mixed styles; update the running mean of w."""
        w, other = self.G.map(z), self.G.map(other_z)
        self.G.w_mean.copy_(w.detach().mean(0).lerp(self.G.w_mean, W_BETA))
        return self.G([w if i < cut else other for i in range(len(noise))], noise)

    def autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def d_loss(self, reals, *draws):
        """Return the logistic loss with R1, mean over the minibatch."""
        reals = reals.detach().requires_grad_()
        with self.autocast():
            with torch.no_grad():
                fakes = self.fakes(*draws)
            real_scores, fake_scores = self.D(reals), self.D(fakes)
        gradient, = torch.autograd.grad(real_scores.sum(), reals, create_graph=True)
        penalty = gradient.float().square().sum([1, 2, 3])
        loss = F.softplus(fake_scores.float()) + F.softplus(-real_scores.float())
        return (loss[:, 0] + R1_GAMMA / 2 * penalty).mean()

    def g_loss(self, *draws):
        """Return the non-saturating logistic loss, mean over the minibatch."""
        with self.autocast():
            scores = self.D(self.fakes(*draws))
        return F.softplus(-scores.float()).mean()


def load(turn, arrays):
    """Load {official name: array} into both networks: official kernels are [height, width, in, out]
    and [in, out], ours here [out, in, ...]."""
    for owner, name, official in places(turn):
        array = arrays[official]
        if array.ndim == 2:
            array = array.T
        elif official.endswith("/weight") and array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        getattr(owner, name).data.copy_(torch.from_numpy(array))


def places(turn):
    """Return [(module, attribute, official name of the variable)] of all parameters of both
    networks."""
    G, D = turn.G, turn.D
    named = [(layer, f"G/G_mapping/Dense{i}") for i, layer in enumerate(G.mapping)]
    sizes = [4 * 2 ** i for i in range(len(G.epilogues) // 2)]
    scopes = ["4x4/Const", "4x4/Conv"] + [
        f"{size}x{size}/{name}" for size in sizes[1:] for name in ("Conv0_up", "Conv1")]
    named += [(conv, f"G/G_synthesis/{scope}") for conv, scope in zip(G.convs, scopes[1:])]
    named += [(epilogue.style, f"G/G_synthesis/{scope}/StyleMod")
              for epilogue, scope in zip(G.epilogues, scopes)]
    named += [(G.to_rgb, "G/G_synthesis/ToRGB_lod0"), (D.from_rgb, "D/FromRGB_lod0")]
    named += [(conv, f"D/{size}x{size}/{name}") for conv, (size, name) in zip(
        D.blocks, [(s, n) for s in sizes[:0:-1] for n in ("Conv0", "Conv1_down")])]
    named += [(D.conv, "D/4x4/Conv"), (D.dense0, "D/4x4/Dense0"), (D.dense1, "D/4x4/Dense1")]
    found = [(layer, name, f"{scope}/{name}") for layer, scope in named
             for name in ("weight", "bias")]
    found += [(epilogue, "noise", f"G/G_synthesis/{scope}/Noise/weight")
              for epilogue, scope in zip(G.epilogues, scopes)]
    return found + [(G, "const", "G/G_synthesis/4x4/Const/const"),
                    (G, "const_bias", "G/G_synthesis/4x4/Const/bias")]


def values(case, out):
    """Write fakes, losses and all gradients, by official names, of a case's variables and draws."""
    with np.load(case) as stored:
        case = dict(stored)
    count, channels, resolution, _ = case["reals"].shape
    turn = Turn(resolution, channels, count, int(case["fmap_base"]), int(case["fmap_max"]),
                case["z"].shape[1])
    load(turn, case)
    noise = [torch.from_numpy(case[f"noise{i}"]) for i in range(len(turn.G.epilogues))]
    draws = (*(torch.from_numpy(case[name]) for name in ("z", "other_z")), int(case["cut"]), noise)
    results = {"fakes": turn.fakes(*draws).detach().numpy()}
    for letter, loss in (("D", lambda: turn.d_loss(torch.from_numpy(case["reals"]), *draws)),
                         ("G", lambda: turn.g_loss(*draws))):
        value = loss()
        value.backward()
        results[f"{letter}_loss"] = value.detach().numpy()
        results |= {f"grad/{official}": getattr(owner, name).grad.numpy()
                    for owner, name, official in places(turn) if official.startswith(letter)}
        turn.D.zero_grad()
    np.savez(out, **results)


def speed_options(argv):
    """Return (a Turn, constant reals, number of turns) of the command line."""
    parser = argparse.ArgumentParser()
    for name in ("resolution", "channels", "minibatch"):
        parser.add_argument(name, type=int)
    for name, default in (("fmap-base", 8192), ("fmap-max", 512), ("latent-size", 512),
                          ("threads", 0), ("turns", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", *DTYPES))
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    turn = Turn(options.resolution, options.channels, options.minibatch, options.fmap_base,
                options.fmap_max, options.latent_size, options.device, options.precision)
    shape = (options.minibatch, options.channels, options.resolution, options.resolution)
    reals = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    return turn, reals.to(turn.device), options.turns


def timed(turn, reals):
    """Do one turn to its end; return {"wall_sec", "cpu_sec"}."""
    wall, cpu = time.perf_counter(), time.process_time()
    turn(reals)[1].item()  # waits for the device
    return {"wall_sec": time.perf_counter() - wall, "cpu_sec": time.process_time() - cpu}


def speed(*argv):
    """Print the version, then for every line on stdin a timed turn as a line of JSON."""
    turn, reals, _ = speed_options(argv)
    timed(turn, reals)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed(turn, reals)), flush=True)


def time_alone(*argv):
    """Time turns by themselves; print one line of JSON."""
    turn, reals, turns = speed_options(argv)
    for _ in range(3):
        timed(turn, reals)
    wall = sorted(timed(turn, reals)["wall_sec"] for _ in range(turns))
    result = {"torch": torch.__version__, "device": str(turn.device), "minibatch": turn.minibatch,
              "turns": turns, "median_sec": wall[turns // 2], "min_sec": wall[0],
              "images_per_sec": turn.minibatch / wall[turns // 2]}
    if turn.device.type == "cuda":
        result |= {"device": torch.cuda.get_device_name(turn.device),
                   "peak_bytes": torch.cuda.max_memory_allocated(turn.device)}
    print(json.dumps(result))


if __name__ == "__main__":
    {"speed": speed, "time": time_alone, "values": values}[sys.argv[1]](*sys.argv[2:])
