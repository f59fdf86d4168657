"""The 2015-12-05 Inception up to pool_3, as data: its layers in order, with their names.

The same table builds the network and gives the shapes for reading raw weight files. Source:
Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2015), sections 2 to 6,
in the form of the public graph classify_image_graph_def.pb, whose scopes name the convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """Convolution, batch norm, ReLU; the published weights have `fmaps` outputs."""

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


def _chain(scope, *shapes):
    """Return the convolutions conv, conv_1, ... in a scope; shapes: the arguments of Conv."""
    return tuple(Conv(f"{scope}/conv" + (f"_{i}" if i else ""), *shape)
                 for i, shape in enumerate(shapes))


def _mixed_35(scope, pool_fmaps):
    """Return a block at 35x35."""
    return Fork((
        _chain(scope, (1, 1, 64)),
        _chain(f"{scope}/tower", (1, 1, 48), (5, 5, 64)),
        _chain(f"{scope}/tower_1", (1, 1, 64), (3, 3, 96), (3, 3, 96)),
        (Pool("average"), *_chain(f"{scope}/tower_2", (1, 1, pool_fmaps)))))


def _mixed_17(scope, n):
    """Return a block at 17x17: 7x7 convolutions factorised into 1x7 and 7x1, n fmaps inside."""
    return Fork((
        _chain(scope, (1, 1, 192)),
        _chain(f"{scope}/tower", (1, 1, n), (1, 7, n), (7, 1, 192)),
        _chain(f"{scope}/tower_1", (1, 1, n), (7, 1, n), (1, 7, n), (7, 1, n), (1, 7, 192)),
        (Pool("average"), *_chain(f"{scope}/tower_2", (1, 1, 192)))))


def _mixed_8(scope, pool):
    """Return a block at 8x8, whose towers end in a 1x3 and a 3x1 convolution side by side."""
    def pair(tower: str) -> Fork:
        return Fork(tuple((conv,) for conv in _chain(f"{tower}/mixed", (1, 3, 384), (3, 1, 384))))

    return Fork((
        _chain(scope, (1, 1, 320)),
        (*_chain(f"{scope}/tower", (1, 1, 384)), pair(f"{scope}/tower")),
        (*_chain(f"{scope}/tower_1", (1, 1, 448), (3, 3, 384)), pair(f"{scope}/tower_1")),
        (Pool(pool), *_chain(f"{scope}/tower_2", (1, 1, 192)))))


TRUNK = (
    Conv("conv", 3, 3, 32, 2, "VALID"),
    Conv("conv_1", 3, 3, 32, 1, "VALID"),
    Conv("conv_2", 3, 3, 64),
    Pool("max", 2, "VALID"),
    Conv("conv_3", 1, 1, 80, 1, "VALID"),
    Conv("conv_4", 3, 3, 192, 1, "VALID"),
    Pool("max", 2, "VALID"),
    _mixed_35("mixed", 32), _mixed_35("mixed_1", 64), _mixed_35("mixed_2", 64),
    Fork((_chain("mixed_3", (3, 3, 384, 2, "VALID")),
          _chain("mixed_3/tower", (1, 1, 64), (3, 3, 96), (3, 3, 96, 2, "VALID")),
          (Pool("max", 2, "VALID"),))),
    _mixed_17("mixed_4", 128), _mixed_17("mixed_5", 160), _mixed_17("mixed_6", 160),
    _mixed_17("mixed_7", 192),
    Fork((_chain("mixed_8/tower", (1, 1, 192), (3, 3, 320, 2, "VALID")),
          _chain("mixed_8/tower_1", (1, 1, 192), (1, 7, 192), (7, 1, 192),
                 (3, 3, 192, 2, "VALID")),
          (Pool("max", 2, "VALID"),))),
    _mixed_8("mixed_9", "average"), _mixed_8("mixed_10", "max"),
)


def kernel_shapes(layers: tuple, fmaps: int = 3,
                  fmaps_of: Callable[[Conv], int] = lambda conv: conv.fmaps
                  ) -> tuple[dict[str, tuple], int]:
    """Return ({scope: (height, width, in, out)} of all kernels, number of output channels).

    Args:
        fmaps: channels that the layers read.
        fmaps_of: returns the number of output fmaps of a convolution.
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
