"""LPIPS against the package that defines it, and path lengths against torch-fidelity's.

Both run in a separate process, with the interpreter named by the environment variable
TORCH_FIDELITY_PYTHON (default: this one); requirements-torch.txt lists what it needs. The trunk's
weights are random, the linear layers' weights are the package's own.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from metrics.networks.lpips import Lpips
from metrics.perceptual_path_length import path_lengths

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("TORCH_FIDELITY_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def inputs(shared):
    """Return pairs of random images, of photos, of photos and near copies; a network's matrix."""
    rng = np.random.default_rng(1234)
    paths = sorted((shared / "data" / "ccp_modanet" / "images").glob("*.jpg"))[:16]
    photos = np.stack([np.asarray(Image.open(path).convert("RGB").resize((96, 144)), np.float32)
                       for path in paths])
    random = rng.uniform(0, 255, (2, 4, 64, 64, 3)).astype(np.float32)
    near = photos + rng.normal(0, 0.1, photos.shape).astype(np.float32)
    return {"pair_random_1": random[0], "pair_random_2": random[1], "pair_photos_1": photos[:8],
            "pair_photos_2": photos[8:], "pair_near_1": photos, "pair_near_2": near,
            "matrix": rng.standard_normal((16, 32 * 32 * 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def theirs(inputs, tmp_path_factory):
    """Return (path of the exported weights, {pair or 'lengths': values})."""
    test = ("import importlib.util as u, sys; "
            "sys.exit(not all(map(u.find_spec, ('torch', 'lpips', 'torch_fidelity'))))")
    if subprocess.run([PYTHON, "-c", test], capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no lpips and torch-fidelity: pip install -r "
                    "requirements-torch.txt into an environment and name its interpreter in "
                    "TORCH_FIDELITY_PYTHON")
    folder = tmp_path_factory.mktemp("lpips")
    np.savez(folder / "inputs.npz", **inputs)
    files = [folder / f"{name}.npz" for name in ("inputs", "weights", "values")]
    subprocess.run([PYTHON, "-W", "ignore", "-m", "benchmarks.sides.lpips_side", *files], cwd=ROOT,
                   check=True)
    with np.load(files[2], allow_pickle=False) as values:
        return files[1], dict(values)


@pytest.mark.parametrize("pair", ["random", "photos", "near"])
def test_distances(inputs, theirs, pair):
    path, values = theirs
    ours = Lpips(path)(*(tf.constant(inputs[f"pair_{pair}_{i}"]) for i in (1, 2))).numpy()
    reference = values[f"pair_{pair}"]
    error = np.abs(ours / reference - 1).max()
    print(f"{pair}: {reference.min():.3g} to {reference.max():.3g}, {error:.2g} relative")
    assert error < 1e-5


def test_path_lengths(inputs, theirs):
    """'z', 'end': with one pair per seed both sides draw the same latents.

    The release normalises both latents before it interpolates; torch-fidelity normalises the
    result, which moves faster at first towards a longer latent: by |z2| / |z1|.
    """
    path, values = theirs
    distance = Lpips(path)
    matrix = tf.constant(inputs["matrix"])
    size, seeds = len(inputs["matrix"]), range(len(values["lengths"]))
    norms = np.array([np.linalg.norm(np.random.RandomState(s).randn(2, size), axis=1)
                      for s in seeds])
    expected = values["lengths"] * (norms[:, 0] / norms[:, 1]) ** 2

    def unit_length(latents, labels):
        return (latents / tf.norm(latents, axis=1, keepdims=True))[:, None]

    def painter(dlatents, noise):
        return tf.reshape(tf.tanh(dlatents[:, 0] @ matrix), [-1, 32, 32, 3])

    ours = np.concatenate([
        path_lengths(unit_length, painter, distance, latent_size=size, space="z",
                     sampling="end", num_samples=1, minibatch=1, seed=seed) for seed in seeds])
    errors, mean_error = np.abs(ours / expected - 1), abs(ours.mean() / expected.mean() - 1)
    print(f"lengths {ours.min():.3g} to {ours.max():.3g}: at most {errors.max():.2g} relative, "
          f"the mean {mean_error:.2g}")
    assert errors.max() < 0.02 and mean_error < 2e-3  # both compare float32 images 1e-4 apart
