"""Run torch-fidelity's side of comparisons, in an interpreter with torch and torch-fidelity.

  python -m benchmarks.sides.torch_fidelity_side values WEIGHTS.npz A B LOGITS.npy OUT.npz
  python -m benchmarks.sides.torch_fidelity_side speed WEIGHTS.npz RESOLUTION MINIBATCH THREADS

It has its own process, since two frameworks in one process share threads and libraries; TensorFlow
is not needed here. WEIGHTS is the cache's inception-2015-12-05.npz: both sides have the same
arrays. `speed` answers every line on stdin with a line of JSON, one timed minibatch each.
"""

import importlib.machinery
import json
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metrics.networks.inception_layers import TRUNK, kernel_shapes

MINIBATCH = 10


def stub_torchvision():
    """Replace torchvision, of which torch-fidelity needs only names for what is used here.

    The package is large, and a version that does not match torch cannot even be imported.
    """
    names = ["torchvision", "torchvision.datasets", "torchvision.models", "torchvision.transforms",
             "torchvision.transforms.functional"]
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(sys.modules["torchvision.datasets"], name, type(name, (), {}))


def load_extractor(weights):
    """Return torch-fidelity's Inception with the arrays of an .npz."""
    from torch_fidelity.feature_extractor_inceptionv3 import (
        BasicConv2d,
        FeatureExtractorInceptionV3,
    )

    class Extractor(FeatureExtractorInceptionV3):
        """An extractor whose convolutions are in the order of our table."""

        def load_state_dict(self, state):
            """Load arrays named as in the original graph."""
            convs = {name: m for name, m in self.named_modules() if isinstance(m, BasicConv2d)}
            full = dict(self.state_dict())
            for (name, conv), scope in zip(convs.items(), kernel_shapes(TRUNK)[0], strict=True):
                values = {"conv.weight": state[f"{scope}/conv2d_params"].permute(3, 2, 0, 1),
                          "bn.weight": torch.ones(conv.bn.num_features),
                          "bn.bias": state[f"{scope}/batchnorm/beta"],
                          "bn.running_mean": state[f"{scope}/batchnorm/moving_mean"],
                          "bn.running_var": state[f"{scope}/batchnorm/moving_variance"]}
                full |= {f"{name}.{part}": value for part, value in values.items()}
            return super().load_state_dict(full)

    with np.load(weights, allow_pickle=False) as arrays, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save({name: torch.from_numpy(arrays[name]) for name in arrays.files}, path)
        return Extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))


def features_of(extractor, folder):
    """Return features float32 [n, 2048] of a folder's images in the order of their names."""
    features = []
    images = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
              for path in sorted(Path(folder).iterdir())]
    for start in range(0, len(images), MINIBATCH):
        with torch.no_grad():
            features.append(extractor(torch.stack(images[start:start + MINIBATCH]))[0])
    return torch.cat(features)


def values(weights, folder1, folder2, logits, out):
    """Write the features of two folders, and torch-fidelity's metrics of them, to an .npz."""
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    extractor = load_extractor(weights)
    a, b = features_of(extractor, folder1), features_of(extractor, folder2)
    statistics = [metric_fid.fid_features_to_statistics(x) for x in (a, b)]
    fid = metric_fid.fid_statistics_to_metric(*statistics, False)
    results = {"fid": fid[metric_fid.KEY_METRIC_FID]}
    for size in (len(a), 100):
        kid = metric_kid.kid_features_to_metric(
            a, b, kid_subsets=100, kid_subset_size=size, kid_kernel="poly", verbose=False)
        results |= {f"kid_{'all' if size == len(a) else size}{end}": kid[key] for end, key in (
            ("", metric_kid.KEY_METRIC_KID_MEAN), ("_std", metric_kid.KEY_METRIC_KID_STD))}
    prc = metric_prc.prc_features_to_metric(a, b, verbose=False)
    results |= {name: prc[name] for name in ("precision", "recall")}
    for splits in (10, 5):
        score = metric_isc.isc_features_to_metric(
            torch.from_numpy(np.load(logits)), splits, shuffle=False)
        results |= {f"is_{splits}": score[metric_isc.KEY_METRIC_ISC_MEAN],
                    f"is_{splits}_std": score[metric_isc.KEY_METRIC_ISC_STD]}
    np.savez(out, a=a.numpy(), b=b.numpy(), **results)


def speed(weights, resolution, minibatch, threads):
    """Time a minibatch for every line on stdin; print {"wall_sec", "cpu_sec"} as a line."""
    torch.set_num_threads(int(threads))
    extractor = load_extractor(weights)
    rng = np.random.default_rng(0)
    shape = (int(minibatch), int(resolution), int(resolution), 3)
    images = torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(2):
            extractor(images)
        print(json.dumps({"torch": torch.__version__}), flush=True)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            extractor(images)[0].numpy()
            print(json.dumps({"wall_sec": time.perf_counter() - wall,
                              "cpu_sec": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    stub_torchvision()
    {"values": values, "speed": speed}[sys.argv[1]](*sys.argv[2:])
