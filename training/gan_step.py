"""One turn of one critic, compiled: D step on N reals, average, G step on N fresh latents."""

import numpy as np
import tensorflow as tf

from dnnlib.data import channels
from dnnlib.tflib.distribute import Draws, replica_rows, worker_rows
from dnnlib.tflib.optimizer import all_finite
from dnnlib.util import UserError
from training import loss
from training.accumulation import mean_over_parts, num_parts, part_rows
from training.reals import process_reals


class Turn:
    """Compiles and runs the turns of one critic at one resolution.

    Growth state enters as data: `fade`, `lrate` and the step are tensors, so that one trace serves
    a whole resolution (and a second one while it fades in; without fading the coarser branch is not
    computed). With lazy R1 there are two traces, with the penalty and without.
    """

    def __init__(self, strategy, config, networks, optimizers, critic, resolution, fading,
                 minibatch, labels=None, num_critics=1, mirrored_order=None):
        """
        Args:
            networks: {'G', 'Gs', 'D_<critic>', ...: Network}.
            optimizers: {'G', 'D_<critic>': Adam}.
            critic: Critic.
            resolution: of the images at hand. fading: whether `fade` may be above 0.
            minibatch: images over all replicas.
            labels: [n, label_size], of all training images: the G step draws from them. Not needed
                where the networks are not conditional.
            num_critics: that take turns, so that this one's own are every so many steps.
            mirrored_order: as `process_reals` takes it; None for a critic without class maps.

        Raises UserError where the minibatch cannot be shared by the devices or taken in parts, or
        several devices were to use XLA.
        """
        self.strategy, self.config = strategy, config
        self.G, self.Gs = networks["G"], networks["Gs"]
        self.D = networks[f"D_{critic.name}"]
        self.G_opt, self.D_opt = optimizers["G"], optimizers[f"D_{critic.name}"]
        self.critic, self.minibatch = critic, minibatch
        self.mirrored_order = mirrored_order
        self.resolution, self.fading = resolution, fading
        self.octaves = (self.G.config["resolution"] // resolution).bit_length() - 1
        replicas = strategy.num_replicas_in_sync
        # Checks that the minibatch can be shared; `_split` and `_draws` take the rows themselves.
        self.rows = [replica_rows(minibatch, replicas, r, config.mbstd_group_size)
                     for r in range(replicas)]
        self.num_parts = num_parts(config, resolution, minibatch, replicas)
        self.worker_rows = worker_rows(strategy, minibatch, config.mbstd_group_size)
        self.labels = None
        if self.G.config["label_size"]:
            with tf.device("CPU:0"):  # there may be as many as images: no device holds them all
                self.labels = tf.constant(labels, tf.float32)
        check_xla(config, replicas)
        self.num_critics = num_critics
        self._runs = {with_r1: self._compiled(with_r1) for with_r1 in (True, False)}

    def __call__(self, reals, step, fade, lrate):
        """Run one turn.

        Args:
            reals: (images uint8 [minibatch, resolution, resolution, critic.channels], labels
                [minibatch, label_size]), as TrainingStream gives them; of several workers each
                gives its own `worker_rows` of the minibatch.
            step: number of turns so far; it and the seed give every random number of the turn.
            fade: weight of the coarser resolution. lrate: learning rate of G and D.

        Returns {name: scalar tensor} to report.
        """
        return self._run_of(step)(
            tuple(map(self._split, reals)), tf.constant(step, tf.int32),
            tf.constant(fade, tf.float32), tf.constant(lrate, tf.float32))

    def is_compiled(self, step):
        """Whether the turn at `step` finds its trace, and will not take the time of making one."""
        return self._run_of(step).experimental_get_tracing_count() > 0

    def _run_of(self, step):
        """The compiled function: with lazy R1 most steps have one without the penalty."""
        return self._runs[step // self.num_critics % self.config.r1_interval == 0]

    @property
    def num_traces(self):
        """How often the turn was traced so far."""
        return sum(run.experimental_get_tracing_count() for run in self._runs.values())

    def _compiled(self, with_r1):
        return tf.function(lambda *args: self._turn(*args, with_r1), autograph=False,
                           jit_compile=self.config.xla or None)

    def _split(self, batch):
        """Hand every replica its rows of a batch that holds this worker's."""
        if len(self.rows) == 1:
            return batch
        places = [np.searchsorted(self.worker_rows, rows) for rows in self.rows]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.gather(batch, places[context.replica_id_in_sync_group]))

    def _turn(self, reals, step, fade, lrate, with_r1=True):
        fade = fade if self.fading else 0.0
        grads, dlatents, finite_D, report = self.strategy.run(
            self._d_gradients, (*reals, step, fade, with_r1))
        finite_D = self._one(finite_D)
        self._track_dlatents(dlatents)
        self.D_opt.apply(self.strategy, grads, finite_D, lrate)
        self._average()
        # Everything random in the G step now waits for D's gradients; else G's forward pass would
        # run beside the D step, and the memory of both be held at once.
        with tf.control_dependencies([finite_D]):
            step = tf.identity(step)
        grads, dlatents, finite_G, report_G = self.strategy.run(self._g_gradients, (step, fade))
        finite_G = self._one(finite_G)
        self._track_dlatents(dlatents)
        self.G_opt.apply(self.strategy, grads, finite_G, lrate)
        report = {name: self._one(value) for name, value in {**report, **report_G}.items()}
        skipped = 2.0 - tf.cast(finite_D, tf.float32) - tf.cast(finite_G, tf.float32)
        return {**report, "Progress/skipped_updates": skipped}

    def _one(self, value):
        """The first replica's copy of a value that is equal in all of them."""
        return self.strategy.experimental_local_results(value)[0]

    def _mean_over_parts(self, function, step, *batch):
        """In a replica: the mean of function(draws, *batch) over the parts of this replica's
        samples; `batch` and the draws hold the samples of a part."""
        rows = None
        if len(self.rows) > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            rows = tf.gather(tf.stack(self.rows), replica)

        def of_part(part):
            draws = Draws(self.config.seed, step, self.minibatch, part[0], self.config.xla)
            return function(draws, *part[1:])

        if self.num_parts == 1:
            return of_part((rows, *batch))
        places = tf.stack(part_rows(len(self.rows[0]), self.num_parts,
                                    min(self.config.mbstd_group_size, self.minibatch)))
        rows = places if rows is None else tf.gather(rows, places)
        return mean_over_parts(of_part, (rows, *(tf.gather(values, places) for values in batch)))

    def _d_gradients(self, reals, labels, step, fade, with_r1):
        """In a replica: all-reduced gradients of the D loss; the fakes have the reals' labels."""
        scale = self.D_opt.loss_scale
        grads, dlatents, report = self._mean_over_parts(
            lambda *part: self._d_part(*part, fade, with_r1, scale), step, reals, labels)
        report = self._all_mean(report)
        return (*self._reduced(grads, dlatents, scale, report["Loss/D"]), report)

    def _d_part(self, draws, reals, labels, fade, with_r1, scale):
        """(gradients of `scale` times the D loss, mean w, report) of some samples."""
        config = self.config
        labels = None if self.labels is None else labels
        reals = self._process_reals(reals, draws, fade)
        fakes, dlatents = self._fakes(draws, "D", labels, fade)
        mix = tf.reshape(draws.uniform("mix"), [-1, 1, 1, 1]) if config.wgan_lambda else None
        with (tf.GradientTape(watch_accessed_variables=False) as tape,
              self.D.weights_made_once()):
            tape.watch(list(self.D.trainables.values()))
            losses, report = loss.discriminator_loss(
                self._scores(labels, fade), reals, tf.stop_gradient(fakes), kind=config.d_loss,
                r1_gamma=config.r1_gamma * config.r1_interval if with_r1 else 0.0,
                r2_gamma=config.r2_gamma, wgan_lambda=config.wgan_lambda, mix=mix,
                octaves=self.octaves, gradient_scale=None if scale is None else tf.sqrt(scale))
            report = {**report, "Loss/D": tf.reduce_mean(losses)}
            total = scaled(report["Loss/D"], scale)
        report = {name: tf.reduce_mean(value) for name, value in report.items()}
        return gradients(tape, total, self.D), dlatents, report

    def _g_gradients(self, step, fade):
        """In a replica: all-reduced gradients of the G loss, on latents and labels of its own."""
        scale = self.G_opt.loss_scale
        grads, dlatents, report = self._mean_over_parts(
            lambda draws: self._g_part(draws, fade, scale), step)
        report = self._all_mean(report)
        return (*self._reduced(grads, dlatents, scale, report["Loss/G"]), report)

    def _g_part(self, draws, fade, scale):
        """(gradients of `scale` times the G loss, mean w, report) of some samples."""
        labels = self._random_labels(draws)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(self.G.trainables.values()))
            fakes, dlatents = self._fakes(draws, "G", labels, fade)
            losses = loss.generator_loss(self._scores(labels, fade), fakes, kind=self.config.g_loss)
            mean_loss = tf.reduce_mean(losses)
            total = scaled(mean_loss, scale)
        return gradients(tape, total, self.G), dlatents, {"Loss/G": mean_loss}

    def _scores(self, labels, fade):
        """The critic as a function images -> scores [N, 1]."""
        return lambda images: self.D(images, labels, resolution=self.resolution, fade=fade)

    def _random_labels(self, draws):
        """Labels of training images drawn at random, [N, label_size]; None without labels."""
        if self.labels is None:
            return None
        with tf.device("CPU:0"):
            return tf.gather(self.labels, draws.integer("G/labels", len(self.labels)))

    def _fakes(self, draws, purpose, labels, fade):
        """Images of G for this critic, with mixed styles, and the mean w before mixing."""
        latents = draws.normal(f"{purpose}/latents", [self.G.config["latent_size"]])
        dlatents = self.G.mapping(latents, labels)
        mixed = self._mix_styles(dlatents, labels, draws, purpose)
        images = self.G.synthesis(
            mixed, resolution=self.resolution, fade=fade,
            noise=lambda layer, height, width: draws.normal(
                f"{purpose}/noise{layer}", [height, width, 1]))
        images = images[..., :self.critic.channels]
        scale = self.critic.rgb_grad
        if scale != 1:
            rgb = images[..., channels.RGB]
            rgb = scale * rgb + (1 - scale) * tf.stop_gradient(rgb)
            images = tf.concat([rgb, images[..., channels.SEGMAPS]], axis=-1)
        return images, tf.reduce_mean(dlatents[:, 0], axis=0)

    def _mix_styles(self, dlatents, labels, draws, purpose):
        """Replace the layers from a random cut on by those of a second w of the same labels.

        For the whole minibatch at once, with probability `style_mixing_prob` (Karras et al. 2019,
        section 3.1).
        """
        if self.config.style_mixing_prob == 0:
            return dlatents
        latent_size = self.G.config["latent_size"]
        others = self.G.mapping(draws.normal(f"{purpose}/mixing_latents", [latent_size]), labels)
        layers = active_layers(self.G.num_layers, self.octaves)
        cut = draws.shared_integer(f"{purpose}/mixing_cut", 1, layers)
        mixes = draws.shared_uniform(f"{purpose}/mixing") < self.config.style_mixing_prob
        return styles_cut(dlatents, others, tf.where(mixes, cut, layers))

    def _process_reals(self, reals, draws, fade):
        """uint8 reals -> what D sees."""
        flip = draws.uniform("mirror") < 0.5 if self.config.mirror else None
        noise = None
        num_maps = self.critic.channels - channels.NUM_COLOURS
        if num_maps and self.config.map_noise:
            shape = [self.resolution, self.resolution, num_maps]
            noise = self.config.map_noise * draws.normal("map_noise", shape)
        return process_reals(reals, fade, flip, noise, self.mirrored_order)

    def _all_mean(self, values):
        """The means of values over all replicas, inside one."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)

    def _reduced(self, grads, dlatents, scale, mean_loss):
        """(gradients of the global mean loss, mean w, whether loss and gradients are finite)."""
        grads = self._all_mean(grads)
        if scale is not None:
            grads = {name: grad / scale for name, grad in grads.items()}
        finite = all_finite(grads) & tf.math.is_finite(mean_loss)
        return grads, self._all_mean(dlatents), finite

    def _track_dlatents(self, batch_mean):
        """dlatent_avg <- lerp(batch mean of w, dlatent_avg, beta), at every evaluation of G."""
        beta = self.config.dlatent_avg_beta
        self.strategy.extended.update(
            self.G.vars["dlatent_avg"],
            lambda var, mean: var.assign(moved_average(var, mean, beta)), args=(batch_mean,))

    def _average(self):
        """Gs <- lerp(G, Gs, 0.5^(minibatch / half-life)); what is not trained is copied."""
        smoothing_nimg = self.config.smoothing_kimg * 1000
        beta = 0.5 ** (self.minibatch / smoothing_nimg) if smoothing_nimg else 0.0
        for name, var in self.Gs.vars.items():
            if self.G.resolution_of(name) > self.resolution:
                continue  # not trained yet, and equal in both
            weight = beta if var.trainable else 0.0
            self.strategy.extended.update(
                var, lambda var, new, weight=weight: var.assign(moved_average(var, new, weight)),
                args=(self.G.vars[name],))


def check_xla(config, num_replicas):
    """Raise UserError where several devices were to use XLA, which compiles for one."""
    if config.xla and num_replicas > 1:
        raise UserError(f"--xla: compiles a turn for one device, not for {num_replicas}; leave it "
                        "out, or give --gpus=1")


def scaled(value, scale):
    """value * scale; value where `scale` is None."""
    return value if scale is None else value * scale


def gradients(tape, total, network):
    """{name: gradient of `total`} without the variables that this resolution does not use: Adam,
    started afresh at every change of resolution, would leave them where they are."""
    grads = tape.gradient(total, network.trainables)
    return {name: grad for name, grad in grads.items() if grad is not None}


def active_layers(num_layers, octaves):
    """How many layers of w reach the image where it is 2^octaves times smaller than the final."""
    return num_layers - 2 * octaves


def styles_cut(dlatents, others, cut):
    """dlatents [N, layers, size] below layer `cut`, the others' from there on (StyleGAN, section
    3.1)."""
    return tf.where(tf.range(dlatents.shape[1])[None, :, None] < cut, dlatents, others)


def moved_average(average, new, beta):
    """lerp(new, average, beta): the running average after one more value."""
    return new + (average - new) * beta
