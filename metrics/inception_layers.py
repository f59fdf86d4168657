"""The 2015-12-05 Inception up to pool_3, as data: which layer follows which, and under what name.

The same table builds the network and gives the shapes by which raw weight files are read. Source:
Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2015), sections 2 to 6,
in the form of the public graph classify_image_graph_def.pb, whose scopes name the convolutions.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """Convolution, batch norm, ReLU; `fmaps` output maps in the published weights."""

    scope: str
    height: int
    width: int
    fmaps: int
    stride: int = 1
    padding: str = "SAME"


@dataclass(frozen=True)
class Pool:
    """3x3 pooling; `kind` is 'max' or 'average' (which leaves padded pixels out of the mean)."""

    kind: str
    stride: int = 1
    padding: str = "SAME"


@dataclass(frozen=True)
class Fork:
    """Branches that read the same input; their outputs are joined along the channels, in order."""

    branches: tuple


def _factorised(scope, sizes, fmaps, hidden):
    """A 1x1 convolution followed by 1x7 and 7x1 ones: `hidden` maps inside, `fmaps` at the end."""
    names = ["conv"] + [f"conv_{i + 1}" for i in range(len(sizes))]
    shapes = [(1, 1)] + list(sizes)
    widths = [hidden] * len(sizes) + [fmaps]
    return tuple(Conv(f"{scope}/{name}", *shape, width)
                 for name, shape, width in zip(names, shapes, widths))


def _mixed_35(scope, pool_fmaps):
    """Blocks at 35x35."""
    return Fork((
        (Conv(f"{scope}/conv", 1, 1, 64),),
        (Conv(f"{scope}/tower/conv", 1, 1, 48), Conv(f"{scope}/tower/conv_1", 5, 5, 64)),
        (Conv(f"{scope}/tower_1/conv", 1, 1, 64), Conv(f"{scope}/tower_1/conv_1", 3, 3, 96),
         Conv(f"{scope}/tower_1/conv_2", 3, 3, 96)),
        (Pool("average"), Conv(f"{scope}/tower_2/conv", 1, 1, pool_fmaps)),
    ))


def _mixed_17(scope, hidden):
    """Blocks at 17x17, their 7x7 convolutions factorised into 1x7 and 7x1."""
    return Fork((
        (Conv(f"{scope}/conv", 1, 1, 192),),
        _factorised(f"{scope}/tower", [(1, 7), (7, 1)], 192, hidden),
        _factorised(f"{scope}/tower_1", [(7, 1), (1, 7), (7, 1), (1, 7)], 192, hidden),
        (Pool("average"), Conv(f"{scope}/tower_2/conv", 1, 1, 192)),
    ))


def _mixed_8(scope, pool):
    """Blocks at 8x8, whose towers end in a 1x3 and a 3x1 convolution side by side."""
    def pair(tower):
        return Fork(((Conv(f"{tower}/mixed/conv", 1, 3, 384),),
                     (Conv(f"{tower}/mixed/conv_1", 3, 1, 384),)))

    return Fork((
        (Conv(f"{scope}/conv", 1, 1, 320),),
        (Conv(f"{scope}/tower/conv", 1, 1, 384), pair(f"{scope}/tower")),
        (Conv(f"{scope}/tower_1/conv", 1, 1, 448), Conv(f"{scope}/tower_1/conv_1", 3, 3, 384),
         pair(f"{scope}/tower_1")),
        (Pool(pool), Conv(f"{scope}/tower_2/conv", 1, 1, 192)),
    ))


TRUNK = (
    Conv("conv", 3, 3, 32, 2, "VALID"),
    Conv("conv_1", 3, 3, 32, 1, "VALID"),
    Conv("conv_2", 3, 3, 64),
    Pool("max", 2, "VALID"),
    Conv("conv_3", 1, 1, 80, 1, "VALID"),
    Conv("conv_4", 3, 3, 192, 1, "VALID"),
    Pool("max", 2, "VALID"),
    _mixed_35("mixed", 32),
    _mixed_35("mixed_1", 64),
    _mixed_35("mixed_2", 64),
    Fork((
        (Conv("mixed_3/conv", 3, 3, 384, 2, "VALID"),),
        (Conv("mixed_3/tower/conv", 1, 1, 64), Conv("mixed_3/tower/conv_1", 3, 3, 96),
         Conv("mixed_3/tower/conv_2", 3, 3, 96, 2, "VALID")),
        (Pool("max", 2, "VALID"),),
    )),
    _mixed_17("mixed_4", 128),
    _mixed_17("mixed_5", 160),
    _mixed_17("mixed_6", 160),
    _mixed_17("mixed_7", 192),
    Fork((
        (Conv("mixed_8/tower/conv", 1, 1, 192),
         Conv("mixed_8/tower/conv_1", 3, 3, 320, 2, "VALID")),
        (*_factorised("mixed_8/tower_1", [(1, 7), (7, 1)], 192, 192),
         Conv("mixed_8/tower_1/conv_3", 3, 3, 192, 2, "VALID")),
        (Pool("max", 2, "VALID"),),
    )),
    _mixed_8("mixed_9", "average"),
    _mixed_8("mixed_10", "max"),
)


def kernel_shapes(layers, fmaps=3, fmaps_of=lambda conv: conv.fmaps):
    """Shapes of all kernels in `layers`, which read `fmaps` channels.

    `fmaps_of(conv)` tells the output maps of a convolution. Returns ({scope: (height, width, in,
    out)} in the order of the table, number of output channels).
    """
    shapes = {}
    for layer in layers:
        if isinstance(layer, Conv):
            fmaps_in, fmaps = fmaps, fmaps_of(layer)
            shapes[layer.scope] = (layer.height, layer.width, fmaps_in, fmaps)
        elif isinstance(layer, Fork):
            inner = [kernel_shapes(branch, fmaps, fmaps_of) for branch in layer.branches]
            for branch_shapes, _ in inner:
                shapes.update(branch_shapes)
            fmaps = sum(width for _, width in inner)
    return shapes, fmaps
