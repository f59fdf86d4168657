"""One small training of every registered method: its data, its options, and uses of its snapshot.

Importing this starts TensorFlow.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.tools import domains, labelled_pictures, labelled_seeds, people
from tests.tools.data_helpers import FOUR, make_dataset, random_image

INCEPTION = Path(__file__).parents[1] / "frozen" / "inception.npz"
# Two ticks of two steps.
COMMON = ["--device=cpu", "--minibatch=4", "--minibatch-repeats=1", "--tick-kimg=0.008",
          "--network-ticks=1", "--image-ticks=2"]
SHORT = [*COMMON, "--preset=tiny", "--kimg=0.016"]
STYLEGAN = [*COMMON, "--preset=demo-32", "--resolution=8", "--initial-resolution=8",
            "--fmap-base=32", "--fmap-max=4", "--latent-size=4", "--mapping-layers=1",
            "--lrate=1e-4"]
WITH_MAPS = [*STYLEGAN, "--rgb-kimg=0.008", "--classes-kimg=0.008"]  # the second tick has maps


class Miniature(NamedTuple):
    """How a method is tested.

    Attributes:
        make: function folder -> the options of train.py that name the data it makes there.
        options: the others; they switch on what two devices have to share, such as batch norm.
        use: options of generate.py; DATA is the folder of `make`.
        measure: options of run_metrics.py.
        others: further sets of options that the slow tests run through the same tests.
    """

    make: Callable[[Path], list[str]]
    options: list[str]
    use: str
    measure: str
    others: tuple[str, ...] = ()


def photos_and_maps(folder):
    rng = np.random.default_rng(0)
    images = np.stack([random_image(rng, 7, 8) for _ in range(12)])
    return [f"--data={make_dataset(folder / 'data', {'train': images, 'test': images}, FOUR)}"]


def coloured(folder):
    (folder / "photos").mkdir()
    Image.new("RGB", (20, 30), (200, 30, 9)).save(folder / "photos" / "red.png")
    return [f"--data={labelled_pictures.coloured_dataset(folder / 'data')}"]


def labelled(folder):
    labelled_pictures.coloured_dataset(folder / "data")
    origin, labels = labelled_seeds.labelled_folder(folder)
    return [f"--init-from={origin}", f"--labels={labels}"]


def two_lists(folder):
    domains.pair_folder(folder / "pairs")
    a, b = domains.two_datasets(folder, num_test=(2, 2))
    return [f"--data={a}", f"--target={b}"]


def posed(folder):
    return [f"--data={people.people_dataset(folder / 'data')}"]


METHODS = {
    "rgb": Miniature(photos_and_maps, [*STYLEGAN, "--rgb-kimg=0.016"], "--seeds=0-1",
                     f"--metrics=kid8 --inception={INCEPTION}"),
    "c": Miniature(photos_and_maps, WITH_MAPS, "--num=2", "--metrics=classes8"),
    "2d": Miniature(photos_and_maps, WITH_MAPS, "--num=2", "--metrics=classes8"),
    "segmenter": Miniature(coloured, [*SHORT, "--unet-fmaps=4", "--class-weights=balanced"],
                           "--source=DATA/photos", "--metrics=miou"),
    "decoder": Miniature(labelled, [*SHORT, "--held-back=0.25"], "--num=2",
                         "--metrics=maps8 --data=DATA/data",
                         others=("--decoder=linear", "--decoder=mlp")),
    "pix2pix": Miniature(coloured, [*SHORT, "--g-fmaps=4", "--d-fmaps=4", "--critic=semantic",
                                    "--norm=batch", "--spectral-norm"],
                         "--maps=DATA/data/test", "--metrics=l1",
                         others=("--scales=2 --norm=instance",)),
    "pose": Miniature(posed, [*SHORT, "--g-fmaps=4", "--d-fmaps=4", "--halvings=1",
                              "--critic=semantic", "--norm=batch"],
                      "--source=DATA/data/val --poses=DATA/data/val", "--metrics=l1 --split=val"),
    "cyclegan": Miniature(two_lists, [*SHORT, "--fmaps=4", "--pool=3", "--garment=box",
                                      "--norm=batch", "--critic=picture", "--clip-norm=0.05",
                                      "--lrate=1e-4"],
                          "--source=DATA/pairs --direction=AtoB", "--metrics=cycleloss",
                          others=("--garment=box --norm=instance --identity-weight=0.5",)),
}
STYLEGANS = ("rgb", "c", "2d")
