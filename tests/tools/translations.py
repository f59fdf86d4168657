"""Trainings of photos from maps, on pictures whose colours show the classes."""

from dnnlib.data.dataset import open_dataset, open_split
from dnnlib.tflib.network import build
from tests.tools.labelled_pictures import CLASSES, SIDE
from tests.tools.training_runs import ONE_DEVICE, run_to_end, with_networks
from training.snapshots import save_snapshot
from training.translation.config import Pix2PixConfig
from training.translation.pix2pix import Pix2Pix

TINY = dict(resolution=SIDE, g_fmaps=4, d_fmaps=4, d_strides=1, minibatch=4, kimg=0.032,
            tick_kimg=0.016, network_ticks=1, minibatch_repeats=1, seed=5, mirror_pairs="none")


def tiny(data, **changes):
    """Return a Pix2PixConfig for seconds of training."""
    return Pix2PixConfig.preset("tiny", {**TINY, "data": str(data), **changes})


def pix2pix(config, strategy=ONE_DEVICE, segmenter=None, evaluate=None, vgg=None):
    """Return a Pix2Pix on config.data."""
    shown = open_split(open_dataset(config.data), "val", config.resolution)
    return Pix2Pix(config, CLASSES, strategy, shown, {}, segmenter, evaluate, vgg)


def begun(config, strategy=ONE_DEVICE, **options):
    """Return such a training with its networks made."""
    return with_networks(pix2pix(config, strategy, **options))


def train(config, run_dir, **options):
    """Train in a run directory to the end, or continue there; return the Training."""
    return run_to_end(pix2pix(config, **options), run_dir)


def save_translator(path, classes=CLASSES, resolution=SIDE, seed=3, about=None, **options):
    """Write a snapshot of an untrained U-Net whose photos differ clearly.

    about: more entries of its header.
    """
    network = build("UnetGenerator", "G", {"resolution": resolution, "in_channels": len(classes),
                                           "fmaps": 4, "seed": seed, **options})
    network.set_arrays({name: value * (10 if name.endswith("kernel") else 1)
                        for name, value in network.get_arrays().items()})
    save_snapshot(path, {"G": network}, {
        "variant": "pix2pix", "classes": list(classes), "kimg": 0.0,
        "lod": {"resolution": resolution, "fade": 0.0}, **(about or {})})
    return path
