"""A generator of photos from maps, and its discriminator, as a method."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, mirroring, pictures
from dnnlib.data.tfrecords import RecordFile
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build
from dnnlib.tflib.vgg16 import Vgg16
from training.dataset import Batch, TrainingStream, affine_transform, process_reals
from training.segmentation.segmenter import NETWORK as SEGMENTER
from training.single_stage import PICTURES, SingleStage
from training.snapshots import load_snapshot
from training.translation import losses
from training.translation.conditional_gan import CRITIC, ConditionalGan, Example
from training.translation.config import HIGHER_IS_BETTER, Pix2PixConfig
from training.translation.translator import NETWORK, seed_masks


class Pix2Pix(ConditionalGan):
    """G, which draws a photo from a map, and D, which sees both.

    Attributes:
        shown: the photos for grids and scores.
    """

    stage_name = "photos"

    def __init__(self, config: Pix2PixConfig, classes: tuple[str, ...],
                 strategy: tf.distribute.Strategy, shown: RecordFile, about: dict[str, Any],
                 segmenter: Path | None = None, evaluate: Callable | None = None,
                 vgg: dict[str, np.ndarray] | None = None):
        """
        Args:
            shown: photos and maps of the validation split, or else of the training split.
            segmenter: the snapshot of config.segmenter.
            vgg: VGG16's arrays for --reconstruction=vgg.

        For the others see SingleStageMethod.
        """
        super().__init__(config, classes, strategy, about, evaluate)
        self.shown, self.vgg = shown, vgg and Vgg16(vgg)
        # The segmentation network is not saved in snapshots, since it is not trained.
        if config.reconstruction == "semantic":
            with strategy.scope():
                self.segmenter = load_snapshot(segmenter).networks[SEGMENTER]
        self.higher_is_better = config.metrics.startswith(HIGHER_IS_BETTER)

    def make_networks(self) -> dict[str, Network]:
        """Return new networks with the config's options."""
        c, num_classes = self.config, len(self.classes)
        common = {"resolution": c.resolution, "norm": c.norm, "seed": c.seed}
        kinds = {"unet": ("UnetGenerator", {"dropout": c.dropout}),
                 "resnet": ("ResnetGenerator", {"blocks": c.blocks})}
        kind, own = kinds[c.generator]
        return {
            NETWORK: build(kind, NETWORK, {
                **common, **own, "in_channels": num_classes, "fmaps": c.g_fmaps}),
            CRITIC: build("PatchDiscriminator", CRITIC, {
                **common, "in_channels": num_classes + channels.NUM_COLOURS, "fmaps": c.d_fmaps,
                "strides": c.d_strides, "num_maps": losses.num_maps(c.critic, num_classes),
                "scales": c.scales, "spectral_norm": c.spectral_norm})}

    # Steps.

    def batches(self, start_nimg: int) -> Iterator[Batch]:
        """Yield this worker's photos and maps for ever, from `start_nimg` on."""
        c = self.config
        return iter(TrainingStream(
            [c.data], resolution=c.resolution, num_channels=channels.num_channels(self.classes),
            minibatch=c.minibatch, seed=c.seed, start_nimg=start_nimg, rows=self.worker_rows))

    def example(self, batch: Batch, draws: Draws) -> Example:
        """Return maps in [0, 1] and photos, with the same random changes.

        Maps are the semantics without a threshold, since thin classes have less than half of every
        pixel they touch.
        """
        flip = draws.uniform("mirror") < 0.5 if self.config.mirror else None
        images = process_reals(batch.images, flip=flip, mirrored_order=self._mirrored_order)
        if self.config.jitter > 1:
            images = jitter_randomly(images, self.config.jitter, draws)
        condition = images[..., channels.SEGMAPS] + 0.5
        return Example([condition], condition, condition, images[..., channels.RGB])

    @functools.cached_property
    def _mirrored_order(self):
        pairs = mirroring.parse_pairs(self.config.mirror_pairs, self.classes)
        return mirroring.mirrored_order(pairs, self.classes) if self.config.mirror else None

    def reconstruction(self, photos: tf.Tensor, fakes: tf.Tensor) -> tf.Tensor:
        """Return how far generated photos are from the real ones, [N]."""
        if self.config.reconstruction == "semantic":
            return losses.semantic_l1(self.segmenter, photos, fakes)
        if self.config.reconstruction == "vgg":
            return losses.vgg_l1(self.vgg, photos, fakes)
        return losses.l1(photos, fakes)  # only reported if --reconstruction=none

    # What a run shows about it.

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the shown photos with these numbers and their maps, uint8 [n, R, R, 3 + C]."""
        return np.stack([self.shown.read_image(n).transpose(1, 2, 0) for n in numbers])

    def translate(self, segmaps: np.ndarray) -> np.ndarray:
        """Return the photos float32 [n, R, R, 3] that G draws from maps uint8 [n, R, R, C], always
        with the same dropout."""
        masks = seed_masks(self.networks[NETWORK], [0] * len(segmaps))
        return self._infer(tf.cast(segmaps, tf.float32) / 255, masks).numpy()

    @functools.cached_property
    def _infer(self):
        """Return the compiled generator."""
        return tf.function(self.networks[NETWORK], autograph=False, reduce_retracing=True)

    def draw(self, stage: SingleStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: map, photo, photo generated from the map."""
        images = self.read(range(min(PICTURES, len(self.shown))))
        segmaps = images[..., channels.SEGMAPS]
        label_maps = channels.to_label_map(segmaps, channels.STORED_THRESHOLD)
        cells = np.concatenate([channels.colourise(label_maps, len(self.classes)),
                                images[..., channels.RGB],
                                pictures.to_uint8(self.translate(segmaps))], axis=2)
        return self.save_grid(run_dir, name, cells)


def jitter_randomly(images: tf.Tensor, factor: float, draws: Draws) -> tf.Tensor:
    """Return images [N, R, R, channels] enlarged bilinearly by `factor` and cropped to their old
    size at random, by whole pixels (pix2pix, appendix 6.2)."""
    side = images.shape[1]
    large = round(side * factor)
    left, top = (tf.cast(draws.integer(f"jitter_{axis}", large - side + 1), tf.float32)
                 for axis in "xy")
    # Pixel x of the result is pixel x + left of the enlarged image; its centre is at
    # (x + left + 0.5) * scale in the original image.
    scale = side / large
    return affine_transform(images, (scale, 0, (left + 0.5) * scale - 0.5),
                            (0, scale, (top + 0.5) * scale - 0.5))
