"""CycleGAN as a method: two generators, two critics, a pool of earlier pictures."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.data import channels, pictures
from dnnlib.tflib.distribute import Draws
from dnnlib.tflib.network import Network, build, part_seed
from dnnlib.tflib.optimizer import all_finite
from training.cycle.config import GENERATORS, CycleConfig, generator_names
from training.cycle.domains import (
    Domain,
    DomainBatch,
    augment_photos,
    read_domains,
    split_mask,
    to_floats,
)
from training.cycle.losses import (
    KIND,
    LARGEST_SHIFT,
    composite,
    critic_view,
    loss_logits,
    masked_l1,
    seen_regions,
)
from training.cycle.pool import NAMES, ImagePool
from training.gan.accumulation import sum_over_parts
from training.single_stage import SingleStage, SingleStageMethod
from training.state import Progress, TrainingState
from training.translation.losses import discriminator_loss, gan_loss

CRITICS = ("D_A", "D_B")
PICTURES, COLUMNS = 8, 2  # photos of each list in a grid, each with two translations; columns


class PairedPhotos(NamedTuple):
    """Photos of both lists [n, R, R, 3], masks of what to translate [n, R, R, 1], and how far
    garments are shifted for the critics [n, 2] (see `seen_regions`)."""

    a: tf.Tensor
    mask_a: tf.Tensor
    b: tf.Tensor
    mask_b: tf.Tensor
    shift: tf.Tensor


class CycleTraining(SingleStageMethod):
    """Generators G_AB and G_BA, and critics D_A and D_B, one for the photos of each list.

    With garments, a generator's picture is composited: outside the soft mask it is the photo, so
    only the garment can change. Critics see real and generated garments through the same regions
    (`seen_regions`), with grey around them. If a list has no masks, its whole photos count as
    garments.

    Attributes:
        domains: the photos of A and of B.
        pool: earlier pictures; None if --pool=0.
        has_garment: whether there are masks.
    """

    stage_name = "cycle"

    def __init__(self, config: CycleConfig, domains: Sequence[Domain],
                 strategy: tf.distribute.Strategy):
        """Take the photos of A and of B; see SingleStageMethod."""
        super().__init__(config, (), strategy, {})
        self.domains = domains
        self.has_garment = any(domain.garment for domain in domains)
        with strategy.scope():
            self.pool = ImagePool(config.pool, config.resolution) if config.pool else None

    # Networks.

    def make_networks(self) -> dict[str, Network]:
        """Return new networks, each with its own seed."""
        c = self.config
        common = {"resolution": c.resolution, "in_channels": channels.NUM_COLOURS,
                  "fmaps": c.fmaps, "norm": c.norm}
        made = {name: ("ResnetGenerator", {"blocks": c.blocks}) for name in GENERATORS.values()}
        made |= {name: ("PatchDiscriminator", {"strides": c.strides, "affine": False})
                 for name in CRITICS}
        return {name: build(kind, name, {**common, **own, "seed": part_seed(c.seed, name)})
                for name, (kind, own) in made.items()}

    def resume(self, state: TrainingState) -> None:
        """Restore networks, optimizers and pool from a stored state."""
        super().resume(state)
        for name, value in state.buffers.get("pool", {}).items():
            self.pool.variables[name].assign(value)

    def buffers(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the pool."""
        if not self.pool:
            return {}
        return {"pool": {name: var.numpy() for name, var in self.pool.variables.items()}}

    # Steps.

    def read_batch(self, places: Sequence[int]) -> DomainBatch:
        """Return photos of both lists, unchanged."""
        return read_domains(self.domains, self.config.seed, places)

    def _update(self, batch, step, lrate):
        """Update generators and critics, all from pictures made by the networks before the step;
        traced."""
        grads, values, pooled, finite, report = self.strategy.run(self._gradients, (batch, step))
        finite = self.first_replica(finite)
        for name in self.networks:
            self.apply(name, grads[name], values[name], finite, lrate)
        for name, value in pooled.items():
            self.strategy.extended.update(
                self.pool.variables[name],
                lambda var, new: var.assign(tf.where(finite, new, var)), args=(value,))
        return {name: self.first_replica(value) for name, value in report.items()}

    def _gradients(self, batch, step):
        """Return all-reduced gradients and running means of each network, the pool after the step,
        whether all is finite, and {name: scalar} to report; called in a replica."""
        # Photos [n, R, R, 3] and masks [n, R, R, 1], changed at random.
        draws = self.draws(step)
        photos = [augment_photos(to_floats(photos), draws, self.config, name)
                  for photos, name in zip(batch, "ab")]
        shift = LARGEST_SHIFT * self.config.resolution * (2 * draws.uniform("overlap", [2]) - 1)
        own = PairedPhotos(*split_mask(photos[0]), *split_mask(photos[1]), shift)
        # Gradients of the generators, then of the critics on what the generators made.
        share = len(self.rows[0])
        num_parts = share // (self.config.minibatch_per_gpu or share)
        (grads, sums, values), fakes = sum_over_parts(self._generators_part, own, num_parts)
        shown, pooled = self._query_pool(fakes, step, draws.rows)
        of_critics, _ = sum_over_parts(self._critics_part, (own, shown), num_parts)
        for whole, part in zip((grads, sums, values), of_critics):
            whole.update(part)
        # Reduce over the replicas.
        context, op = tf.distribute.get_replica_context(), tf.distribute.ReduceOp
        grads, report = context.all_reduce(op.SUM, [grads, sums])
        if any(values.values()):
            values = context.all_reduce(op.MEAN, values)
        finite = all_finite(report) & tf.reduce_all([all_finite(g) for g in grads.values()])
        report["Progress/skipped_updates"] = 1.0 - tf.cast(finite, tf.float32)
        if limit := self.config.clip_norm:
            for name, of_network in grads.items():
                clipped, norm = tf.clip_by_global_norm(list(of_network.values()), limit)
                grads[name] = dict(zip(of_network, clipped))
                report[f"Training/gradient_norm/{name}"] = norm
        return grads, values, pooled, finite, report

    def _generators_part(self, photos):
        """Return what some photos contribute to {generator: gradients}, {name: term to report} and
        {generator: running means}; and {critic: generated pictures as it sees them}."""
        a, mask_a, b, mask_b, shift = photos
        generators = {name: self.networks[name].trainables for name in GENERATORS.values()}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(generators))
            fake_b, raw_b, values_ab = self._translate("G_AB", a, mask_a)
            fake_a, raw_a, values_ba = self._translate("G_BA", b, mask_b)
            again_a, again_b = (self._translate("G_BA", fake_b, mask_a)[0],
                                self._translate("G_AB", fake_a, mask_b)[0])
            fakes = {"D_A": self._critic_view(fake_a, mask_b, mask_a, -shift),
                     "D_B": self._critic_view(fake_b, mask_a, mask_b, shift)}
            terms = {"Loss/G/AB": self._adversarial_loss("D_B", fakes["D_B"]),
                     "Loss/G/BA": self._adversarial_loss("D_A", fakes["D_A"]),
                     "Loss/cycle/A": masked_l1(again_a, a, mask_a),
                     "Loss/cycle/B": masked_l1(again_b, b, mask_b)}
            if self.config.identity_weight:
                terms["Loss/identity/A"] = masked_l1(
                    self._translate("G_BA", a, mask_a)[1], a, mask_a)
                terms["Loss/identity/B"] = masked_l1(
                    self._translate("G_AB", b, mask_b)[1], b, mask_b)
            loss = self._mean_share(
                tf.add_n([self._weight(name) * term for name, term in terms.items()]))
        if self.has_garment:
            # What the generators change outside the garments, before compositing.
            terms["Background/AB"] = masked_l1(raw_b, a, 1 - mask_a)
            terms["Background/BA"] = masked_l1(raw_a, b, 1 - mask_b)
            terms["Critics/seen"] = tf.reduce_mean(seen_regions(mask_a, mask_b, shift), [1, 2, 3])
        grads, values = tape.gradient(loss, generators), {"G_AB": values_ab, "G_BA": values_ba}
        sums = {name: self._mean_share(term) for name, term in terms.items()}
        return (grads, sums, values), fakes

    def _critics_part(self, photos):
        """Return the same for the critics, given photos and the fakes to show with them."""
        (a, mask_a, b, mask_b, shift), shown = photos
        critics = {name: self.networks[name].trainables for name in CRITICS}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(critics))
            of_a, values_a = self._critic_loss(
                "D_A", self._critic_view(a, mask_a, mask_b, shift), shown["D_A"])
            of_b, values_b = self._critic_loss(
                "D_B", self._critic_view(b, mask_b, mask_a, -shift), shown["D_B"])
            loss = self._mean_share(of_a + of_b)
        sums = {"Loss/D/A": self._mean_share(of_a), "Loss/D/B": self._mean_share(of_b)}
        return (tape.gradient(loss, critics), sums, {"D_A": values_a, "D_B": values_b}), {}

    def _mean_share(self, term):
        """Return what a term's values [n] contribute to its mean over the minibatch."""
        return tf.reduce_sum(term) / self.config.minibatch

    def _critic_view(self, images, mask, other, shift):
        """Return images as critics see them."""
        return critic_view(images, mask, other, self.has_garment, shift)

    def _translate(self, name, photos, mask):
        """Return a generator's pictures composited with the photos, the pictures themselves, and
        running means."""
        raw, values = self.networks[name].train_call(photos)
        return composite(raw, photos, mask), raw, values

    def _adversarial_loss(self, name, fakes):
        """Return a generator's adversarial loss [N]."""
        return gan_loss(*self._logits(name, fakes)[:2], True, KIND)

    def _critic_loss(self, name, reals, fakes):
        """Return a critic's loss [N], and running means, averaged over reals and fakes."""
        real, weights, values = self._logits(name, reals)
        fake, _, others = self._logits(name, fakes)
        return (discriminator_loss(real, fake, weights, KIND),
                {key: (value + others[key]) / 2 for key, value in values.items()})

    def _logits(self, name, seen):
        """Return a critic's logits of every scale, their weights, and running means."""
        logits, values = self.networks[name].train_call(seen)
        return *loss_logits(logits, self.config.critic), values

    def _weight(self, name):
        """Return the weight of a term of the generators' loss."""
        c, kind = self.config, name.split("/")[1]
        return {"G": 1.0, "cycle": c.cycle_weight,
                "identity": c.cycle_weight * c.identity_weight}[kind]

    def _query_pool(self, fakes, step, rows):
        """Return this replica's fakes to show to each critic, and the pool after this."""
        if not self.pool:
            return fakes, {}
        count, shown, pooled = self.config.minibatch, {}, {}
        draws = Draws(self.config.seed, step, count)  # for the whole minibatch, in all replicas
        for critic, name in zip(CRITICS, NAMES):
            new = fakes[critic]
            if rows is not None:  # gather the whole minibatch, in its order
                placed = tf.scatter_nd(tf.cast(rows, tf.int32)[:, None], new,
                                       [count, *new.shape[1:]])
                new = tf.distribute.get_replica_context().all_reduce(
                    tf.distribute.ReduceOp.SUM, placed)
            chosen, pooled[name] = self.pool.query(
                name, new, draws.uniform(f"{name}/chance"),
                draws.integer(f"{name}/place", self.pool.size))
            shown[critic] = chosen if rows is None else tf.gather(chosen, rows)
        return shown, pooled | {"filled": self.pool.filled_after(count)}

    # What a run shows about it.

    def draw(self, stage: SingleStage, run_dir: Path, name: str) -> dict[str, np.ndarray]:
        """Write fakes<name>.png: photos of A, translated to B and back; below them those of B."""
        rows = []
        for direction, photos in zip(GENERATORS, self._shown):
            there, back = self.translate(direction, photos)
            rows.append(np.concatenate([pictures.to_uint8(images) for images in (
                photos[..., channels.RGB], there, back)], axis=2))
        columns = min(COLUMNS, max(map(len, rows)))
        rows = [np.pad(row, [(0, -len(row) % columns), (0, 0), (0, 0), (0, 0)],
                       constant_values=pictures.GREY) for row in rows]
        return self.save_grid(run_dir, name, np.concatenate(rows), columns)

    @functools.cached_property
    def _shown(self):
        """Return the first photos of both lists, float32 [n, R, R, 3 or 4]."""
        return [to_floats(np.stack([domain.read(n) for n in domain.numbers[:PICTURES]])).numpy()
                for domain in self.domains]

    def translate(self, direction: str, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return photos float32 [n, R, R, 3 or 4] translated, and these translated back, each
        [n, R, R, 3]."""
        there, back = (self.networks[name] for name in generator_names(direction))
        rgb, mask = split_mask(tf.constant(photos))
        found = composite(there(rgb), rgb, mask)
        return found.numpy(), composite(back(found), found, mask).numpy()

    def header(self, stage: SingleStage, progress: Progress) -> dict[str, Any]:
        """Return what a snapshot holds besides its arrays, with entries about both lists."""
        return {**super().header(stage, progress), "domains": {
            side: {"name": domain.source.name, "path": str(domain.source.path),
                   "digest": domain.source.digest, "num_photos": len(domain.numbers),
                   "garment": list(domain.garment), "fit": domain.fit}
            for side, domain in zip("AB", self.domains)}}

    def remedies(self) -> list[str]:
        """Return options to try if losses or gradients are no longer finite."""
        return ["a lower --lrate", "--clip-norm=1"]
