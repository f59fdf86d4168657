"""The PyTorch StyleGAN of the speed comparison is the same algorithm: with the same variables and
draws it has the same images, losses and gradients.

It runs in a separate process, with the interpreter named by the environment variable TORCH_PYTHON
(default: this one).
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.torch_stylegan import check_torch, parse_options
from dnnlib.util import UserError
from training import loss
from training.gan.init_from import new_state
from training.gan.style_mixing import splice_styles

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)
MINIBATCH, CHANNELS, CUT = 8, 5, 3
LAYERS = 6  # at 16x16


@pytest.fixture(scope="module")
def case():
    """Return draws and reals, NCHW."""
    rng = np.random.default_rng(7)
    case = {"fmap_base": 128, "fmap_max": 16, "cut": CUT,
            "reals": rng.uniform(-1, 1, (MINIBATCH, CHANNELS, 16, 16))}
    case |= {name: rng.standard_normal((MINIBATCH, 12)) for name in ("z", "other_z")}
    for i in range(LAYERS):
        size = 4 << i // 2
        case[f"noise{i}"] = rng.standard_normal((MINIBATCH, 1, size, size))
    return {k: np.asarray(v, np.float32 if isinstance(v, np.ndarray) else None)
            for k, v in case.items()}


def networks_of(tiny_config):
    """Return G and D with no variable at a special value."""
    config = tiny_config(fmap_base=128, fmap_max=16, latent_size=12, mapping_layers=8)
    networks, rng = new_state(config, CHANNELS).networks, np.random.default_rng(8)
    for name in ("G", "D_rgb"):
        networks[name].set_arrays({
            n: a + 0.3 * rng.standard_normal(a.shape).astype(np.float32)
            for n, a in networks[name].get_arrays().items()})
    return networks["G"], networks["D_rgb"]


def our_values(G, D, case):
    """Return what the PyTorch side returns: fakes, losses, gradients by official names."""
    nhwc = {name: tf.constant(array.transpose(0, 2, 3, 1))
            for name, array in case.items() if array.ndim == 4}

    def fakes():
        w, other = (G.mapping(case[name]) for name in ("z", "other_z"))
        return G.synthesis(splice_styles(w, other, CUT), noise=lambda i, *_: nhwc[f"noise{i}"])

    results = {"fakes": fakes().numpy().transpose(0, 3, 1, 2)}
    losses = {"D": (D, lambda: loss.discriminator_loss(D, nhwc["reals"], fakes())[0]),
              "G": (G, lambda: loss.generator_loss(D, fakes()))}
    for letter, (network, per_sample) in losses.items():
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(per_sample())
        results[f"{letter}_loss"] = value.numpy()
        gradients = tape.gradient(value, network.trainables)
        results |= {f"grad/{letter}/{name}": gradient.numpy()
                    for name, gradient in gradients.items() if gradient is not None}
    return results


def as_torch(name, array):
    """Return an image, a loss, or a gradient with PyTorch's order of a kernel's dimensions."""
    if name.startswith("grad/") and array.ndim == 2:
        return array.T
    is_kernel = name.endswith("/weight") and array.ndim == 4
    return array.transpose(3, 2, 0, 1) if is_kernel else array


@pytest.mark.slow
def test_the_same_algorithm(tiny_config, case, tmp_path):
    try:
        check_torch(PYTHON)
    except UserError as error:
        pytest.skip(f"{error} (or TORCH_PYTHON)")
    G, D = networks_of(tiny_config)
    variables = {f"{letter}/{name}": array for letter, network in (("G", G), ("D", D))
                 for name, array in network.get_arrays().items()}
    np.savez(tmp_path / "case.npz", **case, **variables)
    subprocess.run([PYTHON, "-m", "benchmarks.sides.torch_stylegan_side", "values",
                    tmp_path / "case.npz", tmp_path / "out.npz"], cwd=ROOT, check=True)
    ours = our_values(G, D, case)
    with np.load(tmp_path / "out.npz") as out:
        theirs = dict(out)
    assert len(theirs) == 3 + sum(name.startswith("grad/") for name in theirs) > 50
    for name, array in theirs.items():
        error = np.linalg.norm(as_torch(name, ours[name]) - array) / np.linalg.norm(array)
        # Gradients pass through many more float32 layers, and some are sums that nearly cancel.
        assert error < (5e-3 if name.startswith("grad/") else 1e-5), (name, error)


def test_without_torch_the_error_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="cannot be run"):
        check_torch(tmp_path / "python")
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(UserError, match="has no torch: python -m venv"):
        check_torch(fake)
    assert parse_options([]).torch_python == sys.executable
