"""Draw people in other poses with a trained generator, as Sampler samples a Style-GAN."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.pose import body
from training.pose.networks import PoseGenerator
from training.translation.translator import PhotoDrawer, seed_masks


class Reposer(PhotoDrawer):
    """A snapshot's generator of people.

    Attributes:
        names: names of the K keypoints. skeleton: which of them are joined, counted from 1.

    For the others see PhotoDrawer.
    """

    variant, lack = "pose", "draws no people in other poses"

    def __init__(self, path: Path, minibatch: int = 8):
        """Load the generator of a snapshot file; see PhotoDrawer."""
        super().__init__(path, minibatch)
        self.names = tuple(self.header["keypoints"])
        self.skeleton = tuple(map(tuple, self.header["skeleton"]))
        self._infer = compile_inference(self.network, self.names)

    def draw(self, photos: np.ndarray, source_points: np.ndarray,
             target_points: np.ndarray) -> np.ndarray:
        """Return the people of photos uint8 [n, R, R, 3] in other poses, float32 [n, R, R, 3].

        Args:
            source_points, target_points: [n, K, 3] of the photos and of the poses.

        Raises:
            UserError: the network has diverged.
        """
        return self.draw_in_minibatches(self._infer, photos, source_points, target_points)


def generator_inputs(source: tf.Tensor, source_points: tf.Tensor, target_points: tf.Tensor,
                     names: Sequence[str]) -> list[tf.Tensor]:
    """Return the inputs of a PoseGenerator: photos with heatmaps, target heatmaps, both frames.

    Args:
        source: photos [N, R, R, 3] in [-1, 1].
        source_points, target_points: [N, K, 3].
        names: names of the K keypoints.
    """
    resolution = source.shape[1]
    source_maps, target_maps = (body.heatmaps(points, resolution)
                                for points in (source_points, target_points))
    frames = [body.part_frames(points, names) if not body.missing_joints(names) else
              tf.zeros([tf.shape(points)[0], body.NUM_PARTS, 2, 3])
              for points in (source_points, target_points)]
    return [tf.concat([source, source_maps], -1), target_maps, *frames]


def compile_inference(network: PoseGenerator, names: Sequence[str]) -> Callable[..., np.ndarray]:
    """Return a network as a compiled function (photos uint8 [n, R, R, 3], source points, target
    points) -> rgb float32 [n, R, R, 3], always with the same dropout."""
    @tf.function(autograph=False, reduce_retracing=True)
    def infer(photos, source_points, target_points, masks):
        rgb = tf.cast(photos, tf.float32) / 127.5 - 1
        return network(*generator_inputs(rgb, source_points, target_points, names), masks)

    return lambda photos, *points: infer(
        photos, *points, seed_masks(network, [0] * len(photos))).numpy()
