"""benchmarks/confidence.py with a segmenter that is right where the maps are sure."""

import numpy as np

from benchmarks import confidence
from tests.tools.generators import save_network
from training.sampler import Sampler, label_maps


class HalfRight:
    """Returns the labels of a sampler's maps, but only background for every second photo."""

    def __init__(self, sampler, count):
        images, = sampler.seed_images(range(count), 1.0, "random", count)
        self.maps = label_maps(images)
        self.maps[::2] = 0

    def label_maps(self, rgb):
        return self.maps


def test_a_pair_is_as_right_as_the_labels_agree(tmp_path):
    sampler = Sampler.load(save_network(tmp_path / "a.safetensors", ("hat", "scarf", "bag"),
                                        seed=4))
    labeller = HalfRight(sampler, 6)
    sure, right, num_labels = confidence.measure(sampler, labeller, 6, 6)
    assert (right[1::2] == 1).all() and (right[::2] < 0.5).all()
    assert ((sure > 0) & (sure < 1)).all() and num_labels.min() >= 2
    assert confidence.rank_correlation(np.arange(4), np.arange(4) ** 2) == 1
