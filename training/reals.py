"""From stored uint8 images to what discriminators see."""

import tensorflow as tf

from dnnlib.data.channels import NUM_COLOURS
from dnnlib.tflib import ops
from training.dataset import TrainingStream


def reals_stream(config, resolution, num_channels, minibatch, seed, start_nimg=0,
                 with_untagged=False, rows=None):
    """The TrainingStream of a TrainingConfig's data; the image critic's takes the untagged photos
    in."""
    directories = [config.data]
    if with_untagged and config.untagged:
        directories.append(config.untagged)
    return TrainingStream(directories, resolution=resolution, num_channels=num_channels,
                          minibatch=minibatch, seed=seed, start_nimg=start_nimg, rows=rows)


def adjust_dynamic_range(x, drange_in, drange_out):
    """Map the interval drange_in linearly to drange_out, float32."""
    scale = (drange_out[1] - drange_out[0]) / (drange_in[1] - drange_in[0])
    return tf.cast(x, tf.float32) * scale + (drange_out[0] - drange_in[0] * scale)


def fade_reals(x, fade):
    """lerp(x, its 2x2 means nearest-upscaled, fade): the detail that a fading generator cannot
    draw yet is taken away.

    Without effect below 8x8, where no coarser resolution exists.
    """
    if x.shape[1] < 8 or (not tf.is_tensor(fade) and fade == 0):
        return x
    return x + (ops.upscale2d(ops.downscale2d(x)) - x) * fade


def process_reals(images, fade=0.0, flip=None, map_noise=None, mirrored_order=None):
    """Images uint8 [N, r, r, channels] -> float32: colours in [-1, 1], maps in [-0.5, 0.5]
    (thesis, section 4.4.2).

    Args:
        fade: frac(lod), float or scalar tensor.
        flip: bool [N]: which images are mirrored left to right, maps along; None for none.
        map_noise: [N, r, r, channels - 3] that is added to the maps at the end; None for none.
        mirrored_order: [channels - 3] ints: for every map the number of the one that it becomes in
            a mirrored image, where left and right classes change places; None: all stay.
    """
    rgb = adjust_dynamic_range(images[..., :NUM_COLOURS], [0, 255], [-1, 1])
    maps = adjust_dynamic_range(images[..., NUM_COLOURS:], [0, 255], [-0.5, 0.5])
    x = tf.concat([rgb, maps], axis=-1)
    if flip is not None:
        mirrored = tf.reverse(x, axis=[2])
        if mirrored_order is not None:
            order = [*range(NUM_COLOURS), *(NUM_COLOURS + number for number in mirrored_order)]
            mirrored = tf.gather(mirrored, order, axis=-1)
        x = tf.where(tf.reshape(flip, [-1, 1, 1, 1]), mirrored, x)
    x = fade_reals(x, fade)
    if map_noise is not None:
        x += tf.pad(map_noise, [[0, 0], [0, 0], [0, 0], [NUM_COLOURS, 0]])
    return x
