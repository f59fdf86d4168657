"""One compiled step of one critic: update D on N reals, the average Gs, G on N fresh latents."""

import functools

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws, replica_rows, split_among_replicas, worker_rows
from dnnlib.tflib.network import Network
from dnnlib.tflib.optimizer import Adam, all_finite
from training import loss
from training.config import TrainingConfig
from training.dataset import Batch, process_reals, with_map_contrast
from training.gan.accumulation import Samples, mean_over_parts, own_samples
from training.gan.augmentation import Augmentation, augment
from training.gan.growing_network import blend, gradients
from training.gan.schedule import Critic, num_parts
from training.gan.style_mixing import mix_randomly


class GanStep:
    """Compiles and runs the steps of one critic at one resolution.

    `fade`, `lrate` and the step number are tensors, so one trace serves a whole resolution. A
    second one is needed while the resolution fades in, since the coarser branch is computed only
    then. With lazy R1 there are two traces, with and without the penalty.
    """

    def __init__(self, strategy: tf.distribute.Strategy, config: TrainingConfig,
                 networks: dict[str, Network], optimizers: dict[str, Adam], critic: Critic,
                 resolution: int, fading: bool, minibatch: int, labels: np.ndarray | None = None,
                 num_critics: int = 1, mirrored_order: list[int] | None = None,
                 augmentation: Augmentation | None = None):
        """
        Args:
            networks: {'G', 'Gs', 'D_<critic>', ...}. optimizers: {'G', 'D_<critic>', ...}.
            critic: the critic to train. resolution: current size of the images.
            fading: whether `fade` may be above 0. minibatch: images over all replicas.
            labels: [n, label_size] of all training images: the G step draws from them. Not needed
                if the networks are not conditional.
            num_critics: number of critics that take turns: each has every num_critics-th step.
            mirrored_order: as `process_reals` takes it; None for a critic without class maps.
            augmentation: applied to everything that the critic sees; None for none.

        Raises:
            UserError: the minibatch cannot be shared by the devices or taken in parts.
        """
        self.strategy, self.config, self.critic = strategy, config, critic
        self.G, self.Gs, self.D = networks["G"], networks["Gs"], networks[f"D_{critic.name}"]
        self.G_opt, self.D_opt = optimizers["G"], optimizers[f"D_{critic.name}"]
        self.resolution, self.fading, self.minibatch = resolution, fading, minibatch
        self.num_critics, self.mirrored_order = num_critics, mirrored_order
        self.augmentation = augmentation
        self.lod_floor = (self.G.resolution // resolution).bit_length() - 1
        # Which samples of the minibatch each replica has, and each part of its share.
        replicas, group_size = strategy.num_replicas_in_sync, config.mbstd_group_size
        self.rows = [replica_rows(minibatch, replicas, r, group_size) for r in range(replicas)]
        self.worker_rows = worker_rows(strategy, minibatch, group_size)
        parts = num_parts(config, resolution, minibatch, replicas)
        self.part_rows = np.stack([  # [parts, n], places in a replica's share
            replica_rows(len(self.rows[0]), parts, k, min(group_size, minibatch))
            for k in range(parts)])
        self.labels = None
        if self.G.label_size:
            with tf.device("CPU:0"):  # as many rows as images, too many for a device's memory
                self.labels = tf.constant(labels, tf.float32)
        self._compiled = {with_r1: tf.function(
            functools.partial(self._update, with_r1=with_r1), autograph=False,
            jit_compile=config.xla or None) for with_r1 in (True, False)}

    def __call__(self, reals: Batch, step: int, fade: float,
                 lrate: float) -> dict[str, tf.Tensor]:
        """Update D, Gs and G once.

        Args:
            reals: images uint8 [minibatch, resolution, resolution, critic.channels] and their
                labels, as TrainingStream yields them; with several workers, each passes its own
                `worker_rows` of the minibatch.
            step: number of steps so far; it and the seed determine every random number.
            fade: weight of the coarser resolution.
            lrate: learning rate of G and D.

        Returns:
            {name: scalar tensor} to report.
        """
        reals = split_among_replicas(self.strategy, Batch(*reals), self.rows, self.worker_rows)
        return self._function(step)(reals, tf.constant(step, tf.int32),
                                    tf.constant(fade, tf.float32), tf.constant(lrate, tf.float32))

    def is_compiled(self, step: int) -> bool:
        """Return whether the step's function is already traced, so that it runs at once."""
        return self._function(step).experimental_get_tracing_count() > 0

    def _function(self, step):
        """Return the step's compiled function; with lazy R1 most steps leave out the penalty."""
        return self._compiled[step // self.num_critics % self.config.r1_interval == 0]

    def _update(self, reals, step, fade, lrate, with_r1=True):
        """Take one step; traced."""
        fade = fade if self.fading else 0.0
        augment_p = tf.identity(self.augmentation.values["p"]) if self.augmentation else None
        # Update D on reals and fakes.
        grads, mean_w, finite_D, report = self.strategy.run(
            self._d_gradients, (reals, step, fade, augment_p, with_r1))
        finite_D = self._first_replica(finite_D)
        self._update_dlatent_avg(mean_w)
        self.D_opt.apply(self.strategy, grads, finite_D, lrate)
        # Update the average with G as it is before its own step, as the official code does.
        self._update_Gs()
        # Delay the G step until D's gradients exist; otherwise both graphs are in memory at once.
        # Everything in the G step waits for its random numbers, and those wait for `step`.
        with tf.control_dependencies([finite_D]):
            step = tf.identity(step)
        # Update G on fresh latents.
        grads, mean_w, finite_G, report_G = self.strategy.run(
            self._g_gradients, (step, fade, augment_p))
        finite_G = self._first_replica(finite_G)
        self._update_dlatent_avg(mean_w)
        self.G_opt.apply(self.strategy, grads, finite_G, lrate)
        report = {name: self._first_replica(value)
                  for name, value in {**report, **report_G}.items()}
        if self.augmentation:
            self.augmentation.update(self.strategy, report["Loss/signs/real"], finite_D,
                                     self.minibatch)
            report |= {f"Augment/{name}": tf.identity(self.augmentation.values[name])
                       for name in ("p", "r_t")}
        skipped = 2.0 - tf.cast(finite_D, tf.float32) - tf.cast(finite_G, tf.float32)
        return {**report, "Progress/skipped_updates": skipped}

    def _first_replica(self, value):
        """Return the first replica's copy of a value that is equal in all of them."""
        return self.strategy.experimental_local_results(value)[0]

    # Gradients, computed in a replica.

    def _d_gradients(self, reals, step, fade, augment_p, with_r1):
        """Return all-reduced gradients of the D loss, the mean w, whether all is finite, and
        {name: scalar} to report."""
        config = self.config

        def of_part(samples: Samples) -> tuple:
            draws = Draws(config.seed, step, self.minibatch, samples.rows)
            labels = None if self.labels is None else samples.reals.labels
            images = self._process_reals(samples.reals.images, draws, fade)  # [n, r, r, channels]
            fakes, mean_w = self._fakes(draws, "D", labels, fade)  # with the reals' labels
            # R1 takes the gradient with respect to the augmented image, on which D is trained.
            # With respect to the original image, a stronger contrast alone would increase the
            # penalty, and the right gamma would depend on p.
            images = augment(images, augment_p, draws, "D/reals")
            fakes = augment(fakes, augment_p, draws, "D/fakes")
            mix = tf.reshape(draws.uniform("mix"), [-1, 1, 1, 1]) if config.wgan_lambda else None
            with (tf.GradientTape(watch_accessed_variables=False) as tape,
                  self.D.shared_weights()):
                tape.watch(list(self.D.trainables.values()))
                losses, terms = loss.discriminator_loss(  # [n]
                    self._critic(labels, fade), images, tf.stop_gradient(fakes),
                    kind=config.d_loss, r2_gamma=config.r2_gamma, wgan_lambda=config.wgan_lambda,
                    r1_gamma=config.r1_gamma * config.r1_interval if with_r1 else 0.0, mix=mix,
                    lod_floor=self.lod_floor)
                mean_loss = tf.reduce_mean(losses)
            terms["Loss/signs/real"] = tf.sign(terms["Loss/scores/real"])
            report = {name: tf.reduce_mean(value) for name, value in terms.items()}
            return gradients(tape, mean_loss, self.D), mean_w, {**report, "Loss/D": mean_loss}

        return self._reduced(of_part, reals, "Loss/D")

    def _g_gradients(self, step, fade, augment_p):
        """Return the same for the G loss, on its own latents and labels."""
        def of_part(samples: Samples) -> tuple:
            draws = Draws(self.config.seed, step, self.minibatch, samples.rows)
            labels = None
            if self.labels is not None:  # those of random training images, [n, label_size]
                with tf.device("CPU:0"):
                    labels = tf.gather(self.labels, draws.integer("G/labels", len(self.labels)))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(list(self.G.trainables.values()))
                fakes, mean_w = self._fakes(draws, "G", labels, fade)
                fakes = augment(fakes, augment_p, draws, "G/fakes")
                losses = loss.generator_loss(self._critic(labels, fade), fakes,
                                             kind=self.config.g_loss)
                mean_loss = tf.reduce_mean(losses)
            return gradients(tape, mean_loss, self.G), mean_w, {"Loss/G": mean_loss}

        return self._reduced(of_part, (), "Loss/G")

    def _reduced(self, of_part, reals, loss_name):
        """Return means over parts and replicas, and whether loss and gradients are finite."""
        context = tf.distribute.get_replica_context()
        means = mean_over_parts(of_part, own_samples(self.rows, self.part_rows, reals))
        grads, mean_w, report = (context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
                                 for values in means)
        return grads, mean_w, all_finite(grads) & tf.math.is_finite(report[loss_name]), report

    # The inputs of G and D.

    def _critic(self, labels, fade):
        """Return D as a function images -> scores [n, 1]."""
        return functools.partial(self.D, labels=labels, resolution=self.resolution, fade=fade)

    def _fakes(self, draws, purpose, labels, fade):
        """Return G's images for this critic, with mixed styles, and the mean w before mixing."""
        latents = draws.normal(f"{purpose}/latents", [self.G.latent_size])
        dlatents = self.G.mapping(latents, labels)  # [n, layers, dlatent_size]
        mixed = mix_randomly(self.G, dlatents, labels, draws, purpose, self.lod_floor,
                             self.config.style_mixing_prob)
        images = self.G.synthesis(
            mixed, resolution=self.resolution, fade=fade,
            noise=lambda layer, height, width: draws.normal(
                f"{purpose}/noise{layer}", [height, width, 1]))
        images = images[..., :self.critic.channels]
        scale = self.critic.rgb_grad
        if scale != 1:  # the same colours, with a scaled gradient
            rgb = images[..., channels.RGB]
            rgb = scale * rgb + (1 - scale) * tf.stop_gradient(rgb)
            images = tf.concat([rgb, images[..., channels.SEGMAPS]], axis=-1)
        images = with_map_contrast(images, self.config.map_contrast)
        return images, tf.reduce_mean(dlatents[:, 0], axis=0)

    def _process_reals(self, images, draws, fade):
        """Return uint8 reals as D sees them."""
        flip = draws.uniform("mirror") < 0.5 if self.config.mirror else None
        noise = None
        num_maps = self.critic.channels - channels.NUM_COLOURS
        if num_maps and self.config.map_noise:
            shape = [self.resolution, self.resolution, num_maps]
            noise = self.config.map_noise * draws.normal("map_noise", shape)
        images = process_reals(images, fade, flip, noise, self.mirrored_order)
        return with_map_contrast(images, self.config.map_contrast)

    # Averages, in cross-replica context.

    def _update_dlatent_avg(self, mean_w):
        """Set dlatent_avg to lerp(minibatch's mean w, dlatent_avg, beta); called at each use of G.
        """
        beta = self.config.dlatent_avg_beta
        self.strategy.extended.update(
            self.G.vars["dlatent_avg"],
            lambda var, mean: var.assign(blend(mean, var, beta)), args=(mean_w,))

    def _update_Gs(self):
        """Set Gs to lerp(G, Gs, 0.5^(minibatch / half-life)); untrained variables are copied."""
        smoothing_nimg = self.config.smoothing_kimg * 1000
        beta = 0.5 ** (self.minibatch / smoothing_nimg) if smoothing_nimg else 0.0
        for name, var in self.Gs.vars.items():
            if self.G.resolution_of(name) > self.resolution:
                continue  # not trained yet, and equal in both
            weight = beta if var.trainable else 0.0
            self.strategy.extended.update(
                var, lambda var, new, weight=weight: var.assign(blend(new, var, weight)),
                args=(self.G.vars[name],))
