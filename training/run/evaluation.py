"""What is found out about the networks of a moment: scores and metrics, the best snapshot, the
frequencies of the classes."""

import os
from math import isfinite

import tensorflow as tf

from dnnlib import util
from dnnlib.data import channels
from dnnlib.data.class_counts import class_frequencies, total_variation
from dnnlib.util import UserError
from training import snapshots
from training.reals import reals_stream
from training.schedule import stage_ends

CLASS_COUNT_IMAGES = 512  # that the frequencies of the classes are counted in


class Evaluation:
    """Saves and measures the networks of one run; its account is kept in Progress."""

    def __init__(self, run_dir, config, dataset, grids, evaluate, log):
        """
        Args:
            config: TrainingConfig. dataset: DatasetInfo. grids: Grids, for its latents.
            evaluate: function Snapshot -> {metric name: value}, or None.
        """
        self.run_dir, self.config, self.dataset = run_dir, config, dataset
        self.grids, self.evaluate, self.log = grids, evaluate, log

    def save_network(self, networks, stage, progress, name):
        """Evaluate the networks and write network-snapshot-<name>; returns {scalar: value}."""
        header = self.header(stage, progress)
        scores = self._metrics(networks, stage, progress)
        path = self.run_dir / f"network-snapshot-{name}.safetensors"
        snapshots.save_snapshot(path, networks, {**header, "scores": scores})
        self._compare(stage, progress, scores, path)
        scalars = {f"Metrics/{name}": value for name, value in scores.items()}
        return scalars | (self._class_scalars(networks, stage) if stage.name == "classes" else {})

    def header(self, stage, progress):
        """What a snapshot says of itself."""
        names = {"rgb": (), "binary": ("any",), "classes": self.dataset.classes}[stage.name]
        dataset = self.dataset
        return {"variant": self.config.variant, "stage": progress.stage,
                "classes": list(names), "kimg": progress.cur_nimg / 1000,
                "lod": {"resolution": stage.resolution, "fade": stage.fade},
                "dataset": {"name": dataset.name, "path": os.path.abspath(dataset.path),
                            "digest": dataset.digest},
                "training": self.config.to_json()}

    def growth_report(self, networks, stage, progress, scores=None):
        """Mean scores of every critic on some reals and fakes of its channels, and the metrics.

        scores: the metrics, where these networks were measured a moment ago.
        """
        latents, fake_labels = self.grids.inputs(stage.minibatch)
        fakes = networks["Gs"](latents, fake_labels)
        report = {}
        for name in [n for n in networks if n.startswith("D_")]:
            width = networks[name].config["num_channels"]
            reals, labels = next(iter(reals_stream(
                self.config, stage.resolution, width, stage.minibatch, seed=0)))
            reals = channels.to_signed(reals.numpy())
            labels = labels if self.dataset.label_size else None
            for kind, images, given in (("real", reals, labels),
                                        ("fake", fakes[..., :width], fake_labels)):
                report[f"{name}/{kind}"] = float(tf.reduce_mean(networks[name](images, given)))
        report |= self._metrics(networks, stage, progress) if scores is None else scores
        return {name: round(value, 4) for name, value in report.items()}

    def _metrics(self, networks, stage, progress):
        """{metric: value}; none, and a line that says why, where they cannot be computed.

        Networks that have diverged, or photos that cannot be read, are no reason to lose a run.
        """
        scores = {}
        if self.evaluate:
            try:
                live = snapshots.Snapshot(networks, self.header(stage, progress))
                scores = self.evaluate(live)
            except UserError as error:
                self.log.info(f"warning: no metrics at kimg {progress.cur_nimg / 1000:.1f}: "
                              f"{util.one_line(error)}")
        progress.scores, progress.scores_nimg = scores, progress.cur_nimg
        return scores

    def _compare(self, stage, progress, scores, path):
        """Keep account of the best snapshot, and end the stage when it has stopped improving.

        Only what is at the target resolution counts: a network that still grows is compared as
        upscaled images, by numbers of another kind.
        """
        p = progress
        name = selection_metric(scores)
        if name is None or stage.lod:
            return
        value = scores[name]
        if isfinite(value) and (p.stage_best is None or value < p.stage_best):
            p.stage_best, p.evaluations_since_best = value, 0
        else:
            p.evaluations_since_best += 1
        is_last = stage.name == stage_ends(self.config, p.first_stage)[-1][0]
        if is_last and isfinite(value) and (p.best_value is None or value < p.best_value):
            p.best_value = value
            util.write_json(self.run_dir / "best.json", {
                "snapshot": path.name, "metric": name, "value": value, "kimg": p.cur_nimg / 1000})
        if self.config.patience and p.evaluations_since_best >= self.config.patience:
            self.log.info(f"stage {stage.name} ends: {name} has not improved for "
                          f"{self.config.patience} evaluations")
            p.ended_nimg.append(p.cur_nimg)

    def _class_scalars(self, networks, stage):
        """How often each class occurs in real and in generated maps, and their distance."""
        batches = -(-CLASS_COUNT_IMAGES // stage.minibatch)
        stream = iter(reals_stream(self.config, stage.resolution, stage.channels, stage.minibatch,
                                   seed=0))
        inputs = self.grids.batches(batches, stage.minibatch)
        num_classes = len(self.dataset.classes)
        real = class_frequencies(
            (channels.to_signed(next(stream)[0].numpy()) for _ in range(batches)), num_classes)
        fake = class_frequencies(
            (networks["Gs"](*minibatch) for minibatch in inputs), num_classes)
        scalars = {"Classes/total_variation": total_variation(real, fake)}
        for name, in_reals, in_fakes in zip(self.dataset.classes, real, fake):
            scalars |= {f"Classes/real/{name}": in_reals, f"Classes/fake/{name}": in_fakes}
        return scalars


def selection_metric(names):
    """The metric that selects the best snapshot, lower being better: the first FID, else the first
    KID, else None."""
    return next((n for kind in ("fid", "kid") for n in names if n.startswith(kind)), None)
