"""A generator of people in other poses, and its discriminator, as a method."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.data import keypoints, mirroring, pictures
from dnnlib.data.channels import NUM_COLOURS
from dnnlib.data.labelled import choose_numbers
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build
from training.dataset import process_reals, shuffled_index
from training.pose import body
from training.pose.config import PoseConfig
from training.pose.people import PoseBatch, PosePairs
from training.pose.reposer import compile_inference, generator_inputs
from training.single_stage import PICTURES, SingleStage
from training.translation import losses
from training.translation.conditional_gan import CRITIC, ConditionalGan, Example
from training.translation.translator import NETWORK


class Pose(ConditionalGan):
    """G, which draws the person of a photo in another pose, and D, which sees both poses and both
    photos.

    Attributes:
        pairs: pairs to train on. shown: pairs for grids and scores.
        names: names of the K keypoints.
    """

    stage_name = "poses"

    def __init__(self, config: PoseConfig, strategy: tf.distribute.Strategy, pairs: PosePairs,
                 shown: PosePairs, about: dict[str, Any], evaluate: Callable | None = None):
        """
        Args:
            pairs: pairs of the training split.
            shown: pairs of the validation split, or else of the training split.

        For the others see SingleStageMethod.
        """
        super().__init__(config, (), strategy, {
            "keypoints": list(pairs.names), "skeleton": [list(pair) for pair in shown.skeleton],
            **about}, evaluate)
        self.pairs, self.shown, self.names = pairs, shown, tuple(pairs.names)

    def make_networks(self) -> dict[str, Network]:
        """Return new networks with the config's options."""
        c, num_keypoints = self.config, len(self.names)
        common = {"resolution": c.resolution, "norm": c.norm, "seed": c.seed}
        return {
            NETWORK: build("PoseGenerator", NETWORK, {
                **common, "num_keypoints": num_keypoints, "skips": c.skips, "fmaps": c.g_fmaps,
                "halvings": c.halvings, "dropout": c.dropout}),
            CRITIC: build("PatchDiscriminator", CRITIC, {
                **common, "in_channels": 2 * (NUM_COLOURS + num_keypoints), "fmaps": c.d_fmaps,
                "strides": c.d_strides, "num_maps": losses.num_maps(c.critic, num_keypoints)})}

    # Steps.

    def read_batch(self, places: Sequence[int]) -> PoseBatch:
        """Return pairs, in a new permutation each time all have been seen."""
        return self.pairs.read([shuffled_index(self.config.seed, len(self.pairs), place)
                                for place in places])

    def example(self, batch: PoseBatch, draws: Draws) -> Example:
        """Return photos, heatmaps and frames of pairs, mirrored at random; the semantics are the
        target's heatmaps."""
        flip, points = None, [batch.source_points, batch.target_points]
        if self.config.mirror:
            flip = draws.uniform("mirror") < 0.5
            points = [tf.where(flip[:, None, None],
                               body.mirror_points(one, self._mirrored_order), one)
                      for one in points]
        source, target = (process_reals(photos, flip=flip)
                          for photos in (batch.source, batch.target))
        inputs = generator_inputs(source, *points, self.names)
        return Example(inputs, tf.concat(inputs[:2], -1), inputs[1], target)

    @functools.cached_property
    def _mirrored_order(self):
        """Return, for each keypoint of a mirrored photo, the number of the one it comes from."""
        order = mirroring.mirrored_order(mirroring.pairs_by_name(self.names), self.names)
        return range(len(self.names)) if order is None else order

    def reconstruction(self, photos: tf.Tensor, fakes: tf.Tensor) -> tf.Tensor:
        """Return how far generated photos are from the targets, [N]."""
        if self.config.reconstruction == "nearest":
            return losses.nearest_neighbour_l1(photos, fakes, self.config.neighbourhood)
        return losses.l1(photos, fakes)  # only reported if --reconstruction=none

    # What a run shows about it.

    def read(self, numbers: Sequence[int]) -> PoseBatch:
        """Return the shown pairs with these numbers, as arrays."""
        return self.shown.read(numbers)

    def translate(self, pairs: PoseBatch) -> np.ndarray:
        """Return the photos float32 [n, R, R, 3] that G draws from sources in the targets' poses,
        always with the same dropout."""
        return self._infer(pairs.source, pairs.source_points, pairs.target_points)

    @functools.cached_property
    def _infer(self):
        """Return the compiled generator."""
        return compile_inference(self.networks[NETWORK], self.names)

    def draw(self, stage: SingleStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: source, target pose, generated photo, target."""
        pairs = self.read(choose_numbers(len(self.shown), PICTURES, self.config.seed))
        cells = [pictures.enlarge_small(photos) for photos in (
            pairs.source, pictures.to_uint8(self.translate(pairs)), pairs.target)]
        poses = keypoints.skeletons(pairs.target_points, cells[0].shape[1], self.shown.skeleton)
        return self.save_grid(run_dir, name,
                              np.concatenate([cells[0], poses, *cells[1:]], axis=2))
