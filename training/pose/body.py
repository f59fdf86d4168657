"""Bodies given by keypoints, on the device: heatmaps, parts, features moved from pose to pose.

Source: Siarohin et al. 2018, "Deformable GANs for pose-based human image generation" (pose-gan):
ten parts of the body, each moved by an affine map, and the maximum of all. Two choices are ours:
the rectangle of each part, and that positive features outside all parts stay where they are.

Points are float32 [N, K, 3] as in dnnlib.data.keypoints: x and y as shares of the image's side. A
frame [2, 3] is a rectangle: its columns are two sides and a corner, so that (u, v) in [0, 1]^2 is
at frame @ (u, v, 1). The frame of an unknown part is all zeros. Only features have gradients.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Standard deviation of a heatmap, as a share of the side: 6 pixels of 128.
SIGMA = 6 / 128
LIMBS = tuple((f"{side}_{first}", f"{side}_{last}") for side in ("right", "left")
              for first, last in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"),
                                  ("knee", "ankle")))
SHOULDERS, HIPS = ("right_shoulder", "left_shoulder"), ("right_hip", "left_hip")
HEAD = ("nose", "neck", "right_eye", "left_eye", "right_ear", "left_ear")
NUM_PARTS = len(LIMBS) + 2
_SMALLEST = 1e-3  # share of the side: a shorter or narrower part counts as unknown
_FAR = 9.0


def heatmaps(points: tf.Tensor, resolution: int) -> tf.Tensor:
    """Return a Gaussian of height 1 around each point, float32 [N, R, R, K]; zeros for unknown
    points."""
    centres = (tf.range(resolution, dtype=tf.float32) + 0.5) / resolution
    across, down = (tf.exp(-0.5 * tf.square((centres[:, None] - points[:, None, :, axis]) / SIGMA))
                    for axis in (0, 1))  # [N, R, K]
    down *= tf.cast(points[:, None, :, 2] > 0, tf.float32)
    return down[:, :, None] * across[:, None]


def mirror_points(points: tf.Tensor, order: Sequence[int]) -> tf.Tensor:
    """Return the points in the mirrored images; `order` has, for each keypoint of a mirrored image,
    the number of the keypoint that it comes from."""
    x, rest = points[..., :1], points[..., 1:]
    known = rest[..., 1:] > 0
    return tf.gather(tf.concat([tf.where(known, 1 - x, 0.0), rest], -1), order, axis=1)


def missing_joints(names: Sequence[str]) -> list[str]:
    """Return which keypoints, needed to find limbs, torso and head, are missing in `names`."""
    needed = dict.fromkeys(joint for limb in LIMBS for joint in limb)
    head = [] if set(HEAD) & set(names) else [HEAD[0]]
    return [joint for joint in needed if joint not in names] + head


def part_frames(points: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
    """Return the parts of bodies, float32 [N, NUM_PARTS, 2, 3]: limbs, torso, head.

    A limb is a rectangle from joint to joint, whose width is a third of the mean length of the
    known limbs. The torso is a rectangle from the middle of the shoulders to the middle of the
    hips, as wide as shoulders, hips or a limb, whichever is widest. The head is an upright
    rectangle around its keypoints, half a limb's width larger on each side. A part is known if all
    its joints are; the head, if one of its keypoints is.

    Args:
        names: names of the K keypoints; see `missing_joints`.
    """
    def joints(wanted: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
        """Return places [N, n, 2] and known flags [N, n, 1] of joints by name."""
        chosen = tf.gather(points, [names.index(name) for name in wanted], axis=1)
        return chosen[..., :2], chosen[..., 2:] > 0

    # The limbs.
    (first, has_first), (last, has_last) = (joints(ends) for ends in zip(*LIMBS))
    has_limb = has_first & has_last
    lengths = tf.norm(last - first, axis=-1, keepdims=True)
    count = tf.reduce_sum(tf.cast(has_limb, tf.float32), 1, keepdims=True)
    width = tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(has_limb, lengths, 0.0), 1, keepdims=True), 3 * count)  # [N, 1, 1]
    limbs = first, last, tf.tile(width, [1, len(LIMBS), 1]), has_limb
    # The torso.
    (shoulders, has_shoulders), (hips, has_hips) = joints(SHOULDERS), joints(HIPS)
    spans = [tf.norm(pair[:, :1] - pair[:, 1:], axis=-1, keepdims=True)
             for pair in (shoulders, hips)]
    torso = (*(tf.reduce_mean(pair, 1, keepdims=True) for pair in (shoulders, hips)),
             tf.maximum(tf.maximum(*spans), width),
             tf.reduce_all(has_shoulders & has_hips, 1, keepdims=True))
    # The head, from the chin up.
    places, has_place = joints([name for name in HEAD if name in names])
    low = tf.reduce_min(tf.where(has_place, places, _FAR), 1, keepdims=True) - width / 2
    high = tf.reduce_max(tf.where(has_place, places, -_FAR), 1, keepdims=True) + width / 2
    x = (low[..., :1] + high[..., :1]) / 2
    head = (tf.concat([x, high[..., 1:]], -1), tf.concat([x, low[..., 1:]], -1),
            high[..., :1] - low[..., :1], tf.reduce_any(has_place, 1, keepdims=True))
    return _frames(*(tf.concat(parts, 1) for parts in zip(limbs, torso, head)))


def _frames(starts, ends, widths, known):
    """Return frames [N, P, 2, 3] of rectangles along lines from starts to ends [N, P, 2], with
    widths and known flags [N, P, 1]."""
    along = ends - starts
    length = tf.norm(along, axis=-1, keepdims=True)
    normal = tf.stack([-along[..., 1], along[..., 0]], -1)
    across = tf.math.divide_no_nan(widths * normal, length)
    known &= (length > _SMALLEST) & (widths > _SMALLEST)
    frames = tf.stack([across, along, starts - across / 2], axis=-1)
    return tf.where(known[..., None], frames, 0.0)


def warp_features(features: tf.Tensor, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Return features [N, h, h, fmaps] of a body in its source pose, moved to the target pose.

    The features inside each part are moved by the affine map from its source rectangle to its
    target rectangle, and read bilinearly; outside it, the moved part is 0. The result at a pixel is
    the maximum of all moved parts and of the features that were there outside all source parts. So
    outside all parts, positive features stay where they are, and negative ones become 0. A part
    that is unknown in one of the poses is left out.

    Args:
        source, target: frames [N, P, 2, 3] of both poses.
    """
    side, fmaps = features.shape[1], features.shape[3]
    inside = _covered(source, side)  # [N, P, h * h]
    flat = tf.reshape(features, [-1, side * side, fmaps])
    moved = flat * tf.reduce_prod(1 - inside, axis=1)[..., None]
    # Where the pixels of the result come from, in pixels of the source: [N, P, h * h] each
    places = tf.einsum("npij,npjq->npiq", source, _within(target, side))
    x, y = tf.unstack(places * side - 0.5, axis=2)
    is_known = tf.cast(tf.reduce_any(target != 0, [2, 3])[..., None], tf.float32)
    total = 0.0
    for row, share_y in _neighbours(y):
        for column, share_x in _neighbours(x):
            is_there = (column >= 0) & (column < side) & (row >= 0) & (row < side)
            number = tf.cast(tf.where(is_there, row * side + column, 0.0), tf.int32)
            weight = share_x * share_y * tf.gather(inside, number, axis=2, batch_dims=2)
            weight = tf.where(is_there, weight * is_known, 0.0)
            total += weight[..., None] * tf.gather(flat, number, axis=1, batch_dims=1)
    moved = tf.maximum(moved, tf.reduce_max(total, axis=1))
    return tf.reshape(moved, [-1, side, side, fmaps])


def _neighbours(places):
    """Return (pixel, share) of the two pixels between whose centres each place is."""
    first = tf.floor(places)
    return (first, 1 - (places - first)), (first + 1, places - first)


def _within(frames, side):
    """Return (u, v, 1) of all pixels in frames, [N, P, 3, side * side]; their sides must be at
    right angles."""
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    pixels = np.stack([np.tile(centres, side), np.repeat(centres, side)])  # [2, side * side]
    sides, corner = frames[..., :2], frames[..., 2:]
    projected = tf.einsum("npij,npiq->npjq", sides, pixels - corner)
    shares = tf.math.divide_no_nan(projected, tf.reduce_sum(tf.square(sides), 2)[..., None])
    return tf.concat([shares, tf.ones_like(shares[:, :, :1])], 2)


def _covered(frames, side):
    """Return the share of every pixel that rectangles cover, [N, P, side * side], as if pixels were
    turned like the rectangle."""
    lengths = tf.norm(frames[..., :2], axis=2)[..., None] * side  # [N, P, 2, 1], in pixels
    middles = _within(frames, side)[:, :, :2] * lengths
    overlap = tf.minimum(middles + 0.5, lengths) - tf.maximum(middles - 0.5, 0.0)
    return tf.reduce_prod(tf.clip_by_value(overlap, 0.0, 1.0), axis=2)
