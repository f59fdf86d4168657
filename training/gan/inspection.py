"""What a training reports about its networks: critics' scores, and how often classes occur."""

import tensorflow as tf

from dnnlib.data import channels
from dnnlib.data.class_counts import class_frequencies, total_variation
from dnnlib.tflib.network import Network
from training.dataset import with_map_contrast
from training.gan.schedule import Stage
from training.run.grids import Grids

CLASS_COUNT_IMAGES = 512  # images in which the classes are counted for their frequencies


def mean_scores(networks: dict[str, Network], grids: Grids, stage: Stage,
                contrast: float) -> dict[str, float]:
    """Return {"D_<critic>/real" and "D_<critic>/fake": mean score} on a minibatch of the stage, in
    which every critic sees its own channels; `contrast` is that of --map-contrast."""
    means = {}
    latents, fake_labels = grids.inputs(stage.minibatch)
    fakes = with_map_contrast(networks["Gs"](latents, fake_labels), contrast)
    for name, D in networks.items():
        if not name.startswith("D_"):
            continue
        width = D.num_channels
        reals = next(iter(grids.reals(width, stage.resolution, stage.minibatch)))
        labels = reals.labels if D.label_size else None
        images = with_map_contrast(channels.to_signed(reals.images.numpy()), contrast)
        means[f"{name}/real"] = float(tf.reduce_mean(D(images, labels)))
        means[f"{name}/fake"] = float(tf.reduce_mean(D(fakes[..., :width], fake_labels)))
    return means


def class_scalars(Gs: Network, grids: Grids, stage: Stage,
                  classes: tuple[str, ...]) -> dict[str, float]:
    """Return how often each class occurs in real and in generated maps, and how far these
    frequencies are apart."""
    batches = -(-CLASS_COUNT_IMAGES // stage.minibatch)
    reals = iter(grids.reals(stage.channels, stage.resolution, stage.minibatch))
    real = class_frequencies((channels.to_signed(next(reals).images.numpy())
                              for _ in range(batches)), len(classes))
    fake = class_frequencies((Gs(*inputs, resolution=stage.resolution, fade=stage.fade)
                              for inputs in grids.batches(batches, stage.minibatch)), len(classes))
    scalars = {"Classes/total_variation": total_variation(real, fake)}
    for name, in_reals, in_fakes in zip(classes, real, fake):
        scalars |= {f"Classes/real/{name}": in_reals, f"Classes/fake/{name}": in_fakes}
    return scalars
