"""Apply a trained CycleGAN's generators and critics to test photos."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from dnnlib.data import pictures
from training.cycle.config import CycleConfig, generator_names
from training.cycle.domains import split_mask, to_floats
from training.cycle.losses import KIND, composite, critic_view, loss_logits, masked_l1
from training.snapshots import load_snapshot
from training.translation.losses import gan_loss


class CycleNetworks:
    """A snapshot's networks, all in inference mode: batch norms use their running means.

    Attributes:
        header: header of the snapshot. config: configuration of its training.
    """

    def __init__(self, path: Path):
        """Load a snapshot of --variant=cyclegan."""
        snapshot = load_snapshot(path)
        self.header, self._networks = snapshot.header, snapshot.networks
        self.config = CycleConfig.from_json(self.header["training"])
        self._measured = tf.function(self._measure, autograph=False, reduce_retracing=True)

    @property
    def has_garment(self) -> bool:
        """Return whether it translates garments alone."""
        return self.config.garment is not None

    def measure(self, direction: str, photos: np.ndarray, others: np.ndarray
                ) -> tuple[tf.Tensor, np.ndarray, dict[str, np.ndarray]]:
        """Translate photos and measure the result.

        Args:
            direction: 'AtoB' or 'BtoA'.
            photos: uint8 [n, R, R, 3], or 4 with the garment's mask, by which the background is
                measured if the network translates whole photos.
            others: photos of the other list, likewise; critics see through their masks, too.
                Neither is moved at random, as it is in training.

        Returns:
            The translated photos float32 [n, R, R, 3]; the same uint8 as critics see them; and
            {term: [n]}: fooled, fake and real are losses of critics; cycle, identity, background
            and background_raw (what the generator alone changes in it) are mean differences.
        """
        found, seen, terms = self._measured(direction, tf.constant(photos), tf.constant(others))
        return (found, pictures.to_uint8_metrics(seen),
                {name: value.numpy() for name, value in terms.items()})

    def _measure(self, direction, photos, others):
        """Do what `measure` does, with tensors."""
        # There and back: photos [n, R, R, 3], masks [n, R, R, 1]
        rgb, own_mask = split_mask(to_floats(photos))
        mask, other = self.masks(photos), self.masks(others)
        there, back = (self._networks[name] for name in generator_names(direction))
        raw = there(rgb)
        found = composite(raw, rgb, mask)
        again = composite(back(found), found, mask)
        # The critics' scores of the translated and the real photos
        seen, seen_real = (critic_view(images, mask, other, self.has_garment)
                           for images in (found, rgb))
        fake = self._scores(f"D_{direction[-1]}", seen)
        real = self._scores(f"D_{direction[0]}", seen_real)
        terms = {"fooled": gan_loss(*fake, True, KIND), "fake": gan_loss(*fake, False, KIND),
                 "real": gan_loss(*real, True, KIND), "cycle": masked_l1(again, rgb, mask),
                 "identity": masked_l1(back(rgb), rgb, mask)}
        if photos.shape[-1] > rgb.shape[-1]:
            terms |= {"background": masked_l1(found, rgb, 1 - own_mask),
                      "background_raw": masked_l1(raw, rgb, 1 - own_mask)}
        return found, seen, terms

    def masks(self, photos: tf.Tensor) -> tf.Tensor:
        """Return the mask float32 [n, R, R, 1] of what is translated in photos uint8
        [n, R, R, 3 or 4]."""
        mask = split_mask(to_floats(photos))[1]
        return mask if self.has_garment else tf.ones_like(mask)

    def _scores(self, name, images):
        """Return a critic's logits and their weights."""
        return loss_logits(tf.nest.flatten(self._networks[name]([images])), self.config.critic)
