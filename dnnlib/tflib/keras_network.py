"""Networks that take their layers from a Keras model, but hold the variables themselves."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from dnnlib.tflib.network import Network

# By the type of the layers' numbers; variables are float32 in both.
POLICIES = {tf.float32: "float32", tf.bfloat16: "mixed_bfloat16"}


class KerasNetwork(Network):
    """A network that computes what a functional Keras model describes.

    The model serves as a function: each call passes the variables to it. These are initialised,
    trained, averaged over devices and stored like those of all networks here, so that nothing
    depends on what Keras does in distribution strategies. Other values that a training step changes
    (the running means of batch norms) are returned, not assigned.

    Subclasses write `make_model`, and may initialise variables or pass them to the model in their
    own way (`initializer`, `values`). Variables have the paths of the model's variables.

    Attributes:
        compute_dtype: of the layers that do not name one, and of the values between them. Variables
            and outputs are always float32.
    """

    def __init__(self, name: str, **options):
        super().__init__(name, **options)
        self.compute_dtype = tf.float32
        for variable in self.model.variables:
            self.add_variable(variable.path, variable.shape, self.initializer(variable.path),
                              variable.trainable)

    @property
    def compute_dtype(self) -> tf.DType:
        """Return the type of the layers' numbers; setting it makes the model again."""
        return self._compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: tf.DType):
        if dtype == getattr(self, "_compute_dtype", None):
            return
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(POLICIES[dtype])
        try:
            # In a tuple, since tf.Module would track a model's own variables.
            with _without_values():
                self._model = (self.make_model(),)
        finally:
            keras.config.set_dtype_policy(before)
        self._compute_dtype = dtype

    def make_model(self) -> keras.Model:
        """Return the functional model that the options describe, without random layers: random
        numbers are inputs."""
        raise NotImplementedError

    def initializer(self, path: str) -> Callable[[np.random.Generator, tuple], np.ndarray]:
        """Return the function (rng, shape) that initialises the variable `path`."""
        return he_initializer(path)

    def values(self) -> dict[str, tf.Tensor]:
        """Return {path: value} of the variables, as the layers use them."""
        return {variable.path: tf.convert_to_tensor(self.vars[variable.path])
                for variable in self.model.variables}

    @property
    def model(self) -> keras.Model:
        """Return the model, whose own variables are unused and have no values."""
        return self._model[0]

    def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
        """Return the outputs for inference: batch norms use their running means."""
        return self._call(inputs, training=False)[0]

    def train_call(self, *inputs: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return the outputs for training, and {name: value to assign} of the running means."""
        outputs, values = self._call(inputs, training=True)
        names = [variable.path for variable in self.model.non_trainable_variables]
        return outputs, dict(zip(names, values, strict=True))

    def _call(self, inputs, training):
        values = self.values()
        trained, others = ([values[variable.path] for variable in group]
                           for group in (self.model.trainable_variables,
                                         self.model.non_trainable_variables))
        with _without_values():
            outputs, values = self.model.stateless_call(trained, others, *inputs,
                                                        training=training)
        return tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs), values


def _without_values():
    """Return a context in which Keras gives variables no values. These would take as much memory as
    the network, before its size is checked. Any use of a model outside this context creates them.
    """
    return keras.StatelessScope(initialize_variables=False)


def he_initializer(path: str) -> Callable[[np.random.Generator, tuple], np.ndarray]:
    """Return the function (rng, shape) that initialises a variable: He's for kernels."""
    kind = path.rpartition("/")[2]
    if kind in ("gamma", "moving_variance"):
        return lambda rng, shape: np.ones(shape)
    if kind in ("beta", "bias", "moving_mean"):
        return lambda rng, shape: np.zeros(shape)

    def he_normal(rng: np.random.Generator, shape: tuple) -> np.ndarray:
        # A depthwise kernel [h, w, fmaps, 1] reads one feature map.
        fan_in = np.prod(shape[:2] if path.endswith("depthwise/kernel") else shape[:-1])
        return rng.standard_normal(shape) * np.sqrt(2 / fan_in)

    return he_normal
