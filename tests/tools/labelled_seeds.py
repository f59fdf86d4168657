"""Folders of labelled pictures of a random generator, and trainings of decoders on them."""

import numpy as np
from PIL import Image

from dnnlib.data import pictures
from dnnlib.data.class_list import write_class_list
from generation.annotation import write_pictures
from metrics.evaluation import decoder_evaluation
from tests.tools.generators import save_network
from tests.tools.training_runs import ONE_DEVICE, run_to_end, with_networks
from training.decoder.config import DECODERS, DecoderConfig
from training.decoder.decoder import DecoderTraining
from training.decoder.labels import LabelledFolder
from training.sampler import Sampler
from training.snapshots import read_header

CLASSES = ("red", "green")


def colour_labels(rgb):
    """Return a picture's label map: 1 where red is strongest, 2 where green is, 0 where blue."""
    return np.array([1, 2, 0], np.uint8)[rgb.argmax(axis=-1)]


def quieten(arrays):
    """Make noise change little, as in trained generators, where classes do not depend on it; keep
    colours away from black and white, where they would be alike."""
    for name in arrays:
        if name.endswith("Noise/weight"):
            arrays[name] *= 0.05
        elif "ToRGB" in name:
            arrays[name] *= 0.2
        elif name.endswith("/const"):  # all equal, instance norm would leave only noise
            arrays[name] = np.random.default_rng(2).standard_normal(arrays[name].shape, np.float32)


def labelled_folder(folder, count=8, noise="random", **network):
    """Write a generator's snapshot, pictures of it, and their labels; return (origin, folder)."""
    origin = save_network(folder / "rgb.safetensors", (), change=quieten, **network)
    out = folder / "labelled"
    write_pictures(Sampler.load(origin), range(count), out, 0.9, noise, 4)
    for path in sorted(out.glob("seed*.png")):
        write_label(out, path.name, colour_labels(read(path)))
    write_class_list(out, CLASSES)
    return origin, out


def read(path):
    """Return the pixels of a PNG."""
    with Image.open(path) as image:
        return np.asarray(image)


def write_label(folder, name, label_map):
    """Write a picture's label map to where trainings look for it."""
    pictures.save_label_png(folder / "labels" / name, label_map, len(CLASSES))


def tiny(folder, decoder="conv", **changes):
    """Return a DecoderConfig for seconds of training."""
    return DecoderConfig(**{
        **DECODERS[decoder], "decoder": decoder, "data": str(folder), "resolution": 16,
        "kimg": 0.032, "tick_kimg": 0.016, "network_ticks": 1, "minibatch_repeats": 1, "seed": 5,
        **changes})


def decoder(config, origin, strategy=ONE_DEVICE, held_back=()):
    """Return a DecoderTraining that is evaluated on the held-back pictures."""
    labelled, header = LabelledFolder(config.data), read_header(origin)
    evaluate = decoder_evaluation(labelled.label_maps, held_back) if held_back else None
    about = {"lod": header["lod"],
             "generator": {"path": str(origin), "digest": header["digest"]}}
    return DecoderTraining(config, labelled, held_back, origin, about, strategy, evaluate)


def begun(config, origin, strategy=ONE_DEVICE):
    """Return such a training with its network made."""
    return with_networks(decoder(config, origin, strategy))


def train(config, run_dir, origin, **options):
    """Train in a run directory to the end, or continue there; return the Training."""
    return run_to_end(decoder(config, origin, **options), run_dir)
