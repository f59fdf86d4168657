"""The operations of a step, counted from the configuration, against TensorFlow's graph."""

from collections import deque
from math import prod

import pytest
import tensorflow as tf

from benchmarks.operations import parameters, turn_operations
from training.dataset import Batch
from training.gan.gan_step import GanStep
from training.gan.init_from import enter_stage, new_state
from training.gan.schedule import make_stage

NUM_CLASSES = 5
ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


def plain(resolution, fmaps):
    return False


def state_in(config, stage_name, label_size=0):
    """Return a fresh state that entered a stage without training."""
    state = new_state(config, label_size=label_size)
    for name in ("binary", "classes"):
        if state.progress.stage != stage_name:
            state = enter_stage(state, make_stage(config, NUM_CLASSES, name), config)
    return state


def traced_graph(config, stage, critic, form=None):
    """Return the graph of one step."""
    state = state_in(config, stage.name)
    if form:
        for network in state.networks.values():
            network.use_fused_resampling = form
    step = GanStep(ONE_DEVICE, config, state.networks, state.optimizers, critic, stage.resolution,
                   stage.fade > 0, stage.minibatch)
    size = stage.resolution
    images = tf.zeros([stage.minibatch, size, size, critic.channels], tf.uint8)
    reals = Batch(images, tf.zeros([stage.minibatch, 0]))
    scalars = [tf.constant(0), tf.constant(stage.fade), tf.constant(0.001)]
    return step._compiled[True].get_concrete_function(reals, *scalars).graph


def in_use(graph):
    """Return the operations that a graph's outputs and assignments depend on."""
    seen = {tensor.op for tensor in graph.outputs} | set(graph.control_outputs)
    queue = deque(seen)
    while queue:
        op = queue.popleft()
        new = {tensor.op for tensor in op.inputs} | set(op.control_inputs)
        queue += new - seen
        seen |= new
    return seen


def multiply_adds(op):
    """Return an operation's multiply-adds by the graph's shapes: products and convolutions only."""
    if op.type == "MatMul":
        inner = op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1]
        return prod(op.outputs[0].shape) * inner
    if "epthwiseConv2d" in op.type:
        assert op.type != "DepthwiseConv2dNativeBackpropFilter", "the blur is not trained"
        images = op.inputs[2] if op.type.endswith("BackpropInput") else op.outputs[0]
        return prod(images.shape) * 9
    if op.type == "Conv2D":
        return prod(op.outputs[0].shape) * prod(op.inputs[1].shape[:3])
    if op.type == "Conv2DBackpropInput":  # every number of the gradient meets the whole kernel
        return prod(op.inputs[2].shape) * prod(op.inputs[1].shape[:3])
    if op.type == "Conv2DBackpropFilter":
        return prod(op.inputs[2].shape) * prod(op.outputs[0].shape[:3])
    assert "Conv" not in op.type and "MatMul" not in op.type, op.type
    return 0


AT_8 = dict(resolution=8)  # the first cases cover sizes
CASES = {
    "rgb": dict(changes={}, stage="rgb", critic=0),
    "fading": dict(changes={}, stage="rgb", critic=0, lod=0.5),
    "coarser": dict(changes={}, stage="rgb", critic=0, lod=1.0),
    "4x4": dict(changes={}, stage="rgb", critic=0, lod=2.0),
    "image critic of 2d": dict(changes=AT_8, stage="classes", critic=0),
    "joint critic of 2d": dict(changes=AT_8, stage="classes", critic=1),
    "plain": dict(changes={}, stage="rgb", critic=0, form=plain),
    "ProGAN": dict(changes=AT_8 | dict(
        use_styles=False, const_input=False, style_mixing_prob=0.0, use_noise=False,
        use_instance_norm=False, use_pixel_norm=True, blur=False, mbstd_group_size=1),
        stage="rgb", critic=0),
    "R2": dict(changes=AT_8 | dict(r2_gamma=1.0), stage="rgb", critic=0),
    "WGAN-GP": dict(changes=dict(d_loss="wgan", g_loss="wgan", r1_gamma=0.0, wgan_lambda=10.0),
                    stage="rgb", critic=0),
    "no penalty": dict(changes=AT_8 | dict(r1_gamma=0.0), stage="rgb", critic=0),
}


QUICK = ("fading", "joint critic of 2d")


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES])
def test_operations_equal_the_graphs(tiny_config, case):
    c = CASES[case]
    config = tiny_config(fmap_max=16, **c["changes"])
    stage = make_stage(config, NUM_CLASSES, c["stage"], c.get("lod", 0.0))
    critic = stage.critics[c["critic"]]
    forms = [c["form"]] if "form" in c else []
    graph = traced_graph(config, stage, critic, *forms)
    measured = sum(multiply_adds(op) for op in in_use(graph)) / stage.minibatch
    counted = turn_operations(config, critic, stage, *forms)
    # Only WGAN-GP's penalty omits some gradients of D's last layers, which are counted.
    assert counted == pytest.approx(measured, rel=1e-12 if case != "WGAN-GP" else 0.01)


def test_lazy_r1_is_the_mean_of_its_steps(tiny_config):
    """One step in k has the penalty."""
    def count(**changes):
        config = tiny_config(fmap_max=16, **changes)
        stage = make_stage(config, NUM_CLASSES, "rgb")
        return turn_operations(config, stage.critics[0], stage)

    assert count(r1_interval=4) == pytest.approx((count() + 3 * count(r1_gamma=0.0)) / 4)


@pytest.mark.parametrize("changes", [
    {}, dict(use_styles=False, const_input=False, style_mixing_prob=0.0, use_noise=False,
             mbstd_group_size=1), dict(mapping_layers=0, mbstd_num_features=2)])
def test_parameters_equal_the_networks(tiny_config, changes):
    config = tiny_config(**changes)
    networks = new_state(config, num_channels=8).networks
    G, D = networks["G"], networks["D_rgb"]
    fixed = [v for v in G.vars.values() if not v.trainable]
    sizes = [sum(prod(v.shape) for v in variables)
             for variables in (G.trainables.values(), D.trainables.values(), fixed)]
    assert list(parameters(config, 8).values()) == sizes
