"""A results folder with a run of every kind that the page of generate.py --explore shows."""

import numpy as np

from dnnlib.tflib.network import build
from tests.tools.generators import save_network
from tests.tools.labelled_pictures import CLASSES, SIDE
from tests.tools.translations import save_translator
from training.cycle.config import generator_names
from training.decoder.networks import decoded_config
from training.networks_stylegan import G_style
from training.snapshots import save_snapshot

NAMES = ("network-snapshot-000001", "network-final")


def save_decoder(path, classes=CLASSES, resolution=SIDE):
    """Write a snapshot of a random generator without maps and a decoder."""
    generator = G_style("G", num_channels=3, resolution=resolution, latent_size=8, dlatent_size=8,
                        mapping_fmaps=8, fmap_base=64, fmap_max=8)
    network = build("DecodedGenerator", "Gs", decoded_config(
        generator.config, len(classes), decoder="linear"))
    rng = np.random.default_rng(1)
    network.set_arrays({name: rng.standard_normal(value.shape, np.float32)
                        if name.startswith("decoder/") else value
                        for name, value in network.get_arrays().items()})
    path.parent.mkdir(parents=True)
    save_snapshot(path, {"Gs": network}, {
        "variant": "decoder", "classes": list(classes), "kimg": 1.0,
        "lod": {"resolution": resolution, "fade": 0.0}})


def save_segmenter(path, classes=CLASSES, resolution=SIDE):
    """Write a snapshot of an untrained segmentation network."""
    network = build("Segmenter", "S", {"resolution": resolution, "num_outputs": len(classes) + 1,
                                       "architecture": "unet", "unet_fmaps": 4})
    path.parent.mkdir(parents=True)
    save_snapshot(path, {"S": network}, {
        "variant": "segmenter", "classes": list(classes), "kimg": 1.0,
        "lod": {"resolution": resolution, "fade": 0.0}})


def save_cyclegan(path, resolution=SIDE):
    """Write a snapshot of two untrained generators of photos."""
    networks = {name: build("ResnetGenerator", name, {
        "resolution": resolution, "in_channels": 3, "fmaps": 4, "blocks": 1, "seed": seed})
        for seed, name in enumerate(generator_names("AtoB"))}
    path.parent.mkdir(parents=True)
    save_snapshot(path, networks, {
        "variant": "cyclegan", "classes": [], "kimg": 1.0,
        "lod": {"resolution": resolution, "fade": 0.0},
        "domains": {side: {"garment": []} for side in "AB"}})


def results_folder(root):
    """Write root/results with the runs 0 pix2pix, 1 segmenter, 2 cyclegan, 3 decoder, 4 of a
    conditional generator, 5 of a generator with two snapshots; return it."""
    final, results = f"{NAMES[1]}.safetensors", root / "results"
    (results / "00000-pix2pix").mkdir(parents=True)
    save_translator(results / "00000-pix2pix" / final, dropout=0.5)
    save_segmenter(results / "00001-segmenter" / final)
    save_cyclegan(results / "00002-cyclegan" / final)
    save_decoder(results / "00003-decoder" / final)
    save_network(results / "00004-labels" / final, (), label_size=3)
    for seed, name in enumerate(NAMES):
        save_network(results / "00005-maps" / f"{name}.safetensors", CLASSES, seed=seed)
    return results
