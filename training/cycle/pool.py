"""Pictures that generators made earlier, shown to critics along with new ones."""

from collections.abc import Sequence

import tensorflow as tf

NAMES = ("fakes_a", "fakes_b")  # lists for D_A and D_B


class ImagePool:
    """Two lists of pictures that generators made earlier: Zhu et al. 2017, section 4.

    Until a list is full, every new picture is added to it and shown. After that, half of the new
    ones, chosen at random, are shown; each of the others replaces a picture in the list, which is
    shown instead. The lists are variables, equal on all devices, with pictures from all devices.

    Attributes:
        variables: {name in NAMES: float32 [size, R, R, 3]; 'filled': scalar, pictures in each}.
    """

    def __init__(self, size: int, resolution: int):
        """Make empty lists, in the strategy's scope."""
        shape = [size, resolution, resolution, 3]
        self.size = size
        self.variables = {name: tf.Variable(tf.zeros(shape), trainable=False, name=name)
                          for name in NAMES}
        self.variables["filled"] = tf.Variable(0.0, trainable=False, name="filled")

    def query(self, name: str, new: tf.Tensor, chances: tf.Tensor, places: tf.Tensor
              ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the pictures to show for the new ones, and the list afterwards.

        Args:
            new: [N, R, R, 3], the whole minibatch.
            chances: U[0, 1), [N]; below 0.5 a picture goes into a full list.
            places: places in the list, int32 [N].
        """
        filled = tf.cast(self.variables["filled"], tf.int32)
        slots, shown = query_order(self.size, filled, tf.unstack(chances), tf.unstack(places))
        everything = tf.concat([self.variables[name], new], axis=0)
        return tf.gather(everything, shown), tf.gather(everything, slots)

    def filled_after(self, count: int) -> tf.Tensor:
        """Return how many pictures each list has after `count` more were added."""
        return tf.minimum(self.variables["filled"] + count, float(self.size))


def query_order(size: int, filled: tf.Tensor, chances: Sequence[tf.Tensor],
                places: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return which pictures a list holds afterwards, int32 [size], and which are shown, int32 [N].

    Picture i of the old list has number i; new picture i has number size + i. New pictures are
    handled one after another, so one may replace an earlier one.
    """
    slots, shown = tf.range(size), []
    for i, (chance, place) in enumerate(zip(chances, places)):
        fills = filled + i < size
        joins = fills | (chance < 0.5)
        place = tf.where(fills, filled + i, place)
        shown.append(tf.where(joins & ~fills, slots[tf.minimum(place, size - 1)], size + i))
        slots = tf.where((tf.range(size) == place) & joins, size + i, slots)
    return slots, tf.stack(shown)
