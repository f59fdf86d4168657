"""How wide a layer is and which form it takes: rules that need no TensorFlow.

The networks follow them, and so does whoever counts what a network costs.
"""


def num_fmaps(stage, fmap_base, fmap_decay, fmap_max):
    """nf(stage) = min(int(fmap_base / 2^(stage * fmap_decay)), fmap_max) (ProGAN, table 2)."""
    return min(int(fmap_base / 2 ** (stage * fmap_decay)), fmap_max)


def use_fused(resolution, fmaps):
    """Whether a layer that scales between `resolution` and half of it takes the fused form.

    Measured on two CPU cores: a fused layer, forward and backward, is 1.5 to 2.3 times faster,
    except between 4x4 and 8x8 with 512 maps, where making the 4x4 kernel costs more than it saves
    (0.8 to 0.9). docs/performance.md has the table, and whole turns.
    """
    return resolution > 8 or fmaps < 512
