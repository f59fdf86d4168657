"""Write one turn of training as an XLA module with its parameters, to run without TensorFlow.

Any runner of XLA modules, for example JAX, can compile and time it. FOLDER gets

    step.hlo      the module, serialised; its parameters are the turn's arguments, then the
                  variables; updated variables are outputs aliased to their parameters
    params.npz    p0, p1, ...: the initial value of every parameter
    feed.npz      p<i> of shape [batches, ...]: the arguments that change with every turn
    names.json    names of the parameters and of the first outputs, and what was exported
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from dnnlib import cli, util
from dnnlib.util import UserError
from training.config import PRESETS, VARIANTS, TrainingConfig
from training.gan.schedule import make_stage, variant_stages
from training.method_config import PRECISIONS, by_resolution

NUM_CLASSES = 13
ARGUMENTS = ("reals", "step", "fade", "lrate")
FED = ("reals", "step")

EXAMPLES = """\
  python -m benchmarks.export_step --preset=paper --resolution=512 --minibatch=4 --out=step-512
  python -m benchmarks.export_step --preset=small-64 --stage=classes --precision=bf16 --out=step-64
"""


def main(argv):
    """Trace, lower and write. Return the exit status."""
    options = parse_options(argv)
    config, stage, critic = plan(options)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    names = export(make_turn(config, stage, critic), folder, options.batches)
    names |= {"preset": options.preset, "variant": config.variant, "stage": stage.name,
              "critic": critic.name, "resolution": stage.resolution, "minibatch": stage.minibatch,
              "precision": config.precision, "channels": critic.channels}
    util.write_json(folder / "names.json", names)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {len(names['parameters'])} parameters, {len(names['outputs'])} outputs, "
          f"{size:.0f} MB. Next: give step.hlo, params.npz and feed.npz to a runner of XLA modules")
    return 0


def parse_options(argv):
    """Parse the command line."""
    parser = cli.argument_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--preset", default="paper", choices=PRESETS, help="networks and losses")
    add("--variant", default="2d", choices=VARIANTS, help="decides which critics there are")
    add("--stage", default="rgb", help="rgb, binary or classes")
    add("--critic", help="name of the critic that is trained (default: the stage's last)")
    add("--resolution", type=int, metavar="N", help="current resolution (default: the preset's "
        "final one, or 512)")
    add("--minibatch", type=int, metavar="N", help="images of a turn (default: the preset's at "
        "that resolution)")
    add("--precision", default="fp32", choices=PRECISIONS, help="precision of activations")
    add("--batches", type=int, default=4, help="different minibatches of reals in feed.npz")
    add("--out", default="exported-step", metavar="FOLDER", help="where to write")
    return parser.parse_args(argv)


def plan(options):
    """Return (TrainingConfig, Stage, Critic) of the command line. Raises UserError for a stage,
    resolution or critic that does not exist."""
    config = TrainingConfig.preset(options.preset, {"variant": options.variant,
                                            "precision": options.precision})
    config = dataclasses.replace(config, resolution=config.resolution or 512)
    if options.stage not in variant_stages(config.variant):
        raise UserError(f"--stage={options.stage}: --variant={config.variant} has the stages "
                        f"{', '.join(variant_stages(config.variant))}")
    resolution = options.resolution or config.resolution
    sizes = [size for size in (2 ** r for r in range(2, 11)) if size <= config.resolution]
    if options.stage != "rgb":
        sizes = sizes[-1:]
    if resolution not in sizes:
        raise UserError(f"--resolution={resolution}: stage {options.stage} of preset "
                        f"{options.preset} has {', '.join(map(str, sizes))}")
    stage = make_stage(config, NUM_CLASSES, options.stage,
                       float(sizes[-1].bit_length() - resolution.bit_length()))
    minibatch = options.minibatch or by_resolution(config.minibatch, resolution)
    critics = {critic.name: critic for critic in stage.critics}
    name = options.critic or stage.critics[-1].name
    if name not in critics:
        raise UserError(f"--critic={name}: stage {options.stage} has {', '.join(critics)}")
    return config, dataclasses.replace(stage, minibatch=minibatch), critics[name]


def make_turn(config, stage, critic):
    """Return a GanStep of new networks in that stage, on the CPU."""
    import tensorflow as tf

    from dnnlib.tflib import ops
    from training.gan.augmentation import typical_augmentation
    from training.gan.gan_step import GanStep
    from training.gan.init_from import enter_stage, new_state

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        state = new_state(config)
        for name in variant_stages(config.variant)[1:]:
            if state.progress.stage != stage.name:
                state = enter_stage(state, make_stage(config, NUM_CLASSES, name), config)
        augmentation = typical_augmentation(config)
    for network in state.networks.values():
        network.convolutions = ops  # not the forms for the CPU, on which this is only traced
    return GanStep(strategy, config, state.networks, state.optimizers, critic, stage.resolution,
                   stage.fade > 0, stage.minibatch, augmentation=augmentation)


def turn_arguments(turn, step=0):
    """Return tensors for `compiled_turn`'s function, in the order of ARGUMENTS; reals are random.
    """
    import tensorflow as tf

    rng = np.random.default_rng(step)
    shape = (turn.minibatch, turn.resolution, turn.resolution, turn.critic.channels)
    lrate = by_resolution(turn.config.lrate, turn.resolution)
    return (tf.constant(rng.integers(0, 256, shape, np.uint8)), tf.constant(step),
            tf.constant(0.0), tf.constant(lrate, tf.float32))


def compiled_turn(turn):
    """Return the turn as one function that XLA compiles: (reals, step, fade, lrate) -> report."""
    import tensorflow as tf

    from training.dataset import Batch

    # An empty argument would be left out of the module.
    labels = tf.zeros([turn.minibatch, 0])
    return tf.function(lambda reals, *scalars: turn._update(Batch(reals, labels), *scalars),
                       jit_compile=True, autograph=False)


def turn_variables(turn):
    """Return {name: variable} of all variables that a turn may read or write."""
    groups = {"G": turn.G.vars, "Gs": turn.Gs.vars, turn.D.name: turn.D.vars,
              "opt_G": turn.G_opt.slots, f"opt_{turn.D.name}": turn.D_opt.slots}
    if turn.augmentation:
        groups["augment"] = turn.augmentation.values
    return {f"{group}/{name}": variable for group, variables in groups.items()
            for name, variable in variables.items()}


def export(turn, folder, batches):
    """Write step.hlo, params.npz and feed.npz into a folder. Return the names for names.json."""
    compiled, arguments = compiled_turn(turn), turn_arguments(turn)
    concrete = compiled.get_concrete_function(*arguments)
    variables = {id(v.handle): name for name, v in turn_variables(turn).items()}
    captured = [variables[id(handle)] for handle in concrete.captured_inputs]
    lower = compiled.experimental_get_compiler_ir(*arguments)
    values = [*arguments, *(turn_variables(turn)[name] for name in captured)]
    check_parameters(lower(stage="hlo"), values)
    util.atomic_write(folder / "step.hlo", lower(stage="hlo_serialized"))
    save_arrays(folder / "params.npz", {f"p{i}": v.numpy() for i, v in enumerate(values)})
    steps = [turn_arguments(turn, step) for step in range(batches)]
    save_arrays(folder / "feed.npz", {f"p{i}": np.stack([values[i].numpy() for values in steps])
                                      for i, name in enumerate(ARGUMENTS) if name in FED})
    return {"parameters": [*ARGUMENTS, *captured],
            "outputs": sorted(concrete.structured_outputs)}


def check_parameters(module_text, values):
    """Raise ValueError unless the module's parameters have the shapes of `values`, in order."""
    layout = re.search(r"entry_computation_layout=\{\((.*?)\)->", module_text).group(1)
    shapes = [tuple(map(int, filter(None, dims.split(","))))
              for dims in re.findall(r"[a-z]\w*\[([\d,]*)\]", layout)]
    expected = [tuple(value.shape) for value in values]
    if shapes != expected:
        raise ValueError(f"the module's parameters are {shapes}, not {expected}")


def save_arrays(path, arrays):
    """Write an .npz file, completely or not at all."""
    with util.atomic_path(path) as beside, open(beside, "wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    cli.run_main(main)
