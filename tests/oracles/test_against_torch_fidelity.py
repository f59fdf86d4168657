"""Features and metrics against torch-fidelity's, with the same weights, on 500 + 500 real photos.

torch-fidelity runs in a separate process, with the interpreter named by the environment variable
TORCH_FIDELITY_PYTHON (default: this one); requirements-torch.txt lists what it needs.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metrics.features import FeatureSet, source_features
from metrics.image_sources import folder_source
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.metric_base import METRICS
from metrics.networks.inception import load_detector
from metrics.networks.inception_weights import DIGEST, cached_weights, read_inception
from metrics.precision_recall import precision_recall

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("TORCH_FIDELITY_PYTHON", sys.executable)
COUNT = 500


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    """Make two folders of 500 photos each: tagged and untagged ones."""
    folders = []
    for name in ("images", "images_unlabelled"):
        folder = tmp_path_factory.mktemp(name)
        for path in sorted((shared / "data" / "ccp_modanet" / name).glob("*.jpg"))[:COUNT]:
            (folder / path.name).symlink_to(path)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def logits():
    """Return outputs of the last layer, from which the Inception Score is computed."""
    return (3 * np.random.default_rng(0).standard_normal((1000, 1008))).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(photos, logits, tmp_path_factory):
    """Return torch-fidelity's results: features a and b, fid, kid, precision, recall, is."""
    test = "import torch, importlib.util as u, sys; sys.exit(not u.find_spec('torch_fidelity'))"
    if subprocess.run([PYTHON, "-c", test], capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no torch-fidelity: pip install -r requirements-torch.txt into "
                    "an environment and name its interpreter in TORCH_FIDELITY_PYTHON")
    if not cached_weights().is_file() or read_inception(cached_weights()).digest != DIGEST:
        pytest.skip(f"no published Inception weights in {cached_weights()}; run_metrics.py fetches "
                    "them")
    folder = tmp_path_factory.mktemp("torch_fidelity")
    np.save(folder / "logits.npy", logits)
    subprocess.run([PYTHON, "-m", "benchmarks.sides.torch_fidelity_side", "values",
                    cached_weights(), *photos, folder / "logits.npy", folder / "values.npz"],
                   cwd=ROOT, check=True)
    with np.load(folder / "values.npz", allow_pickle=False) as values:
        return dict(values)


@pytest.fixture(scope="module")
def ours(photos, theirs):
    """Return our detector's features of both folders."""
    detector = load_detector()
    return [source_features(folder_source(folder), detector) for folder in photos]


def test_features(ours, theirs):
    for features, name in zip(ours, "ab"):
        reference = theirs[name]
        assert features.shape == reference.shape == (COUNT, 2048)
        error = np.abs(features - reference).max() / np.abs(reference).max()
        print(f"features of {name}: {error:.2g} of the largest")
        assert error < 1e-4
        assert np.linalg.norm(features - reference) < 1e-4 * np.linalg.norm(reference)


def equal(what, mine, reference, tolerance=1e-4):
    """Assert equality relative to the reference; pytest -s shows the figures."""
    error = abs(mine / reference - 1)
    print(f"{what}: {mine:.10g} here, {reference:.10g} there, {error:.2g} relative")
    assert error < tolerance


def test_fid(ours, theirs):
    fid = METRICS["fidNk"].function(FeatureSet(ours[0]), FeatureSet(ours[1]), None)
    equal("fid", fid[""], theirs["fid"])


def test_kid(ours, theirs):
    kid = METRICS["kidNk"].function(FeatureSet(ours[0]), FeatureSet(ours[1]), None)
    equal("kid, one subset of all", kid[""], theirs["kid_all"])
    mean, std = kernel_distance(*ours, num_subsets=100, subset_size=100)
    equal("kid, 100 subsets of 100", mean, theirs["kid_100"])
    equal("its deviation", std, theirs["kid_100_std"])


def test_precision_and_recall(ours, theirs):
    precision, recall = precision_recall(ours[1], ours[0])
    equal("precision", precision, theirs["precision"])
    equal("recall", recall, theirs["recall"])


@pytest.mark.parametrize("splits", [10, 5])
def test_inception_score_formula(logits, theirs, splits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean, std = inception_score(p / p.sum(axis=1, keepdims=True), splits)
    equal(f"is in {splits} splits", mean, theirs[f"is_{splits}"])
    equal("its deviation", std, theirs[f"is_{splits}_std"])
