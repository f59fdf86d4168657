"""What changes during training (networks, optimizers, counters): birth, growth and return."""

import dataclasses
import os
from dataclasses import asdict, dataclass, field, fields

import tensorflow as tf

from dnnlib.cluster import SharedError
from dnnlib.tflib import cpu_convolutions, ops
from dnnlib.tflib.distribute import everyones
from dnnlib.tflib.network import build, full_config
from dnnlib.tflib.optimizer import Adam
from dnnlib.util import UserError
from training.channel_growth import grow_critic, grow_generator
from training.config import TrainingConfig, as_option
from training.critics import stage_channels, stage_critics, variant_stages
from training.snapshots import networks_from_groups


@dataclass
class Progress:
    """The counters of a training.

    Attributes:
        cur_nimg: real images shown so far, all critics together. step: turns so far.
        first_stage, ended_nimg: where the schedule began and the nimg at which stages ended.
        stage: name of the stage that the networks are in.
        optimizer_phase: Adam starts afresh whenever this changes.
        look_nimg: where the schedule was last looked at. look_turns: turns since; a training that
            was stopped between two looks does the rest of them before it looks again.
        stream_nimg: {critic: images that its stream has handed out}.
        best_value: best selection metric in the final stage; stage_best, evaluations_since_best:
            for `patience`.
        tick_nimg: where the tick at hand began. pending: what a tick that is over, but not told
            yet, has to say (a dict), else None.
        scores: the newest metrics {name: value}, computed at scores_nimg.
        stats_bytes: length of stats.jsonl; None in states of before this was noted.
        skipped_in_a_row: the most updates in a row that an optimizer has skipped just now.
        elapsed_sec: time spent in all runs of this training together.
        num_threads: of the process that made this state; another number changes the last bits.
    """

    first_stage: str = "rgb"
    stage: str = "rgb"
    cur_nimg: int = 0
    step: int = 0
    tick: int = 0
    tick_nimg: int = 0
    look_nimg: int = 0
    look_turns: int = 0
    pending: dict | None = None
    ended_nimg: list = field(default_factory=list)
    optimizer_phase: list | None = None
    stream_nimg: dict = field(default_factory=dict)
    best_value: float | None = None
    stage_best: float | None = None
    evaluations_since_best: int = 0
    scores: dict = field(default_factory=dict)
    scores_nimg: int | None = None
    stats_bytes: int | None = None
    skipped_in_a_row: int = 0
    elapsed_sec: float = 0.0
    num_threads: int = 0

    def to_json(self):
        """A dict of plain JSON values."""
        return asdict(self)


@dataclass
class TrainingState:
    """networks {'G', 'Gs', 'D_<critic>'}, optimizers {'G', 'D_<critic>'} and Progress."""

    networks: dict
    optimizers: dict
    progress: Progress


_SHARED = ("resolution", "fmap_base", "fmap_decay", "fmap_max", "nonlinearity", "use_wscale",
           "blur")
_G = ("latent_size", "mapping_layers", "mapping_lrmul", "normalize_latents", "use_styles",
      "use_noise", "const_input", "use_pixel_norm", "use_instance_norm")
_D = ("mbstd_group_size", "mbstd_num_features")
NETWORK_OPTIONS = _SHARED + _G + _D  # fields of TrainingConfig that make networks what they are


def network_configs(config, num_channels=3, label_size=0):
    """{'G': keywords of G_style, 'D': keywords of D_basic} but for their seeds.

    The one place where TrainingConfig's options become networks; w is as long as z.
    """
    def options(names):
        return {name: getattr(config, name) for name in names}

    shared = {"num_channels": num_channels, "label_size": label_size, **options(_SHARED)}
    # Without a mapping network w is its input: z, and the labels' embedding of the same length.
    passed_on = 2 * config.latent_size if label_size else config.latent_size
    G = {**options(_G), "mapping_nonlinearity": config.nonlinearity,
         "mapping_fmaps": config.latent_size,
         "dlatent_size": config.latent_size if config.mapping_layers else passed_on}
    return {"G": {**shared, **G}, "D": {**shared, **options(_D)}}


def new_state(config, num_channels=3, label_size=0):
    """Fresh networks for the RGB stage, in the current strategy's scope."""
    configs = network_configs(config, num_channels, label_size)
    G = build("G_style", "G", {**configs["G"], "seed": config.seed})
    D = build("D_basic", "D_rgb", {**configs["D"], "seed": config.seed + 1})
    networks = {"G": G, "Gs": G.clone("Gs"), "D_rgb": D}
    set_precision(networks, config.precision)
    return TrainingState(networks, new_optimizers(networks), Progress())


def new_optimizers(networks):
    """A fresh Adam for every network but the average."""
    return {name: Adam(network.trainables, loss_scaling=network.compute_dtype == tf.float16)
            for name, network in networks.items() if name != "Gs"}


def set_precision(networks, precision):
    """Have all networks but the average compute in the type that TrainingConfig.precision names."""
    dtype = {"fp32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}[precision]
    on_cpu = not tf.config.list_logical_devices("GPU")
    for name, network in networks.items():
        if name != "Gs":
            network.compute_dtype = dtype
            network.convolutions = cpu_convolutions if precision != "fp32" and on_cpu else ops


def first_stage_after(header, config):
    """The stage that a training begins with when it starts from a snapshot: the one after its own,
    or its own where that is the last.

    Raises UserError where the snapshot cannot start this variant.
    """
    stage, stages = header.get("stage"), variant_stages(config.variant)
    if stage not in stages:
        raise UserError(f"--init-from: a snapshot of stage {stage!r} cannot start "
                        f"--variant={config.variant}")
    full, lod = header["networks"]["G"]["config"]["resolution"], header["lod"]
    # In an official pickle the lod of Gs may lag behind that of G, from which training goes on.
    if header.get("official_lod", {}).get("G", lod["fade"] or lod["resolution"] < full):
        raise UserError("--init-from: this snapshot still grows in resolution; take a later one of "
                        "its run")
    if config.variant == "rgb" and config.resolution != config.initial_resolution:
        raise UserError("--init-from: --variant=rgb would grow its trained network once more; give "
                        "--initial-resolution and --resolution alike to train on at that size")
    return stages[min(stages.index(stage) + 1, len(stages) - 1)]


def with_networks_of(header: dict, config: TrainingConfig,
                     given: dict) -> tuple[TrainingConfig, dict]:
    """Return the config of a training that starts from a snapshot, and {option: value} of what it
    takes from there: what makes networks and was not given.

    Args:
        header: the snapshot's. given: fields of TrainingConfig that the user has set.
    """
    made = header["networks"]
    critic = next((name for name in made if name.startswith("D_")), None)
    stored = {}
    for name, options in (("G", _SHARED + _G), (critic, _D)):
        if name is not None:
            network = full_config(made[name]["type"], made[name]["config"])
            stored |= {option: network[option] for option in options}
    if config.variant == "rgb" and header.get("stage") == "rgb":  # it goes on at its size
        stored["initial_resolution"] = stored["resolution"]
    taken = {option: value for option, value in stored.items()
             if option not in given and getattr(config, option) != value}
    return dataclasses.replace(config, **taken), taken


def check_start(header, config, classes, label_size=0):
    """Raise UserError where a snapshot with this header cannot start this training.

    Returns the names of the networks that the training takes over.
    """
    stage, first = header["stage"], first_stage_after(header, config)
    if stage == "classes" and header["classes"] != list(classes):
        raise UserError(f"--init-from: its classes are {', '.join(header['classes'])}, this data "
                        f"set's {', '.join(classes)}")
    critics = stage_critics(config.variant, first, len(classes))
    needed = {"G", "Gs", *(f"D_{c.name if first == stage else c.grows_from}" for c in critics)}
    made = header["networks"]
    if not needed <= set(made):
        raise UserError(f"--init-from: --variant={config.variant} needs "
                        f"{', '.join(sorted(needed))} to go on from stage {stage}; "
                        f"this snapshot holds {', '.join(sorted(made))}")
    wanted = network_configs(config, label_size=label_size)
    stored = {name: full_config(made[name]["type"], made[name]["config"]) for name in needed}
    for name in sorted(needed):
        _check_same(name, stored[name], wanted["D" if name.startswith("D_") else "G"])
    channels, expected = stored["G"]["num_channels"], stage_channels(stage, len(classes))
    if channels != expected:
        raise UserError(f"--init-from: it draws {channels} channels, this data set has {expected} "
                        f"in stage {stage}")
    return needed


def state_from_snapshot(snapshot, config, classes, label_size=0):
    """Networks of a snapshot as the start of `first_stage_after` it; raises as `check_start`."""
    needed = check_start(snapshot.header, config, classes, label_size)
    networks = {name: snapshot.networks[name] for name in needed}
    set_precision(networks, config.precision)
    progress = Progress(first_stage=first_stage_after(snapshot.header, config),
                        stage=snapshot.header["stage"])
    return TrainingState(networks, new_optimizers(networks), progress)


def _check_same(name, stored, wanted):
    """A snapshot's network has the configuration that this training would give it.

    Channels are left out, which grow. Raises UserError naming the option to give.
    """
    for key, value in wanted.items():
        if key == "num_channels" or stored[key] == value:
            continue
        remedy = "this program cannot train such a network"
        if key == "label_size":
            remedy = "take a data set with labels of that size"
        elif hasattr(TrainingConfig, key):
            remedy = f"give {as_option(key, stored[key])}"
        raise UserError(f"--init-from: {key} of its {name} is {stored[key]}, of this training "
                        f"{value}; {remedy}")


def enter_stage(state, stage, grow_d, precision="fp32"):
    """Grow the networks' channels for `stage` (a Stage) and start every optimizer afresh.

    Returns the new TrainingState; networks and optimizers of the old one are let go.
    """
    old = state.networks
    networks = {name: grow_generator(old[name], stage.channels) for name in ("G", "Gs")}
    for critic in stage.critics:
        grown = grow_critic(old[f"D_{critic.grows_from}"], critic.channels, grow_d)
        networks[f"D_{critic.name}"] = grown.clone(f"D_{critic.name}")
    set_precision(networks, precision)
    state.progress.stage = stage.name
    state.progress.stage_best = None
    state.progress.evaluations_since_best = 0
    return TrainingState(networks, new_optimizers(networks), state.progress)


def restored_state(header, groups, source, precision="fp32"):
    """The TrainingState that `snapshots.save_state` wrote, in the current strategy's scope.

    Raises UserError where another version of this program wrote it.
    """
    networks = networks_from_groups(header, groups, source)
    set_precision(networks, precision)
    optimizers = new_optimizers(networks)
    for name, optimizer in optimizers.items():
        # Slots that a state of before does not have are as in a fresh optimizer.
        optimizer.set_arrays({**optimizer.get_arrays(), **groups[f"opt_{name}"]})
    unknown = sorted(header["progress"].keys() - {f.name for f in fields(Progress)})
    if unknown:
        raise UserError(f"{source}: its training state knows of {', '.join(unknown)}; continue it "
                        "with the program that it was written by")
    progress = Progress(**header["progress"])
    progress.elapsed_sec = max(progress.elapsed_sec, 0.0)  # a clock that was set back, in old files
    return TrainingState(networks, optimizers, progress)


def check_same_state(strategy, stored, run_dir):
    """Raise SharedError unless all have read the same training state (or none).

    stored: what `snapshots.load_newest_state` returned.
    """
    seen = stored and [stored[0]["progress"]["cur_nimg"], stored[0]["digests"]]
    states = everyones(strategy, seen)
    for worker, state in enumerate(states):
        if state != states[0]:
            told = ["no training state" if s is None else f"a training state of kimg "
                    f"{s[0] / 1000:.3f}" for s in (states[0], state)]
            other = "another one, of the same kimg" if told[0] == told[1] else told[1]
            raise SharedError(
                f"{run_dir}: worker 0 finds {told[0]} in it, worker {worker} {other}; all workers "
                "must see the same run directory (a shared file system)")


def note_threads(progress, log):
    """Put down the number of TensorFlow's threads. Bit-identity of a continued run holds for an
    equal number only: say so where it has changed."""
    threads = (tf.config.threading.get_intra_op_parallelism_threads()
               or len(os.sched_getaffinity(0)))  # what TensorFlow takes
    if progress.num_threads not in (0, threads):
        log.info(f"warning: this training ran with {progress.num_threads} threads before and now "
                 f"has {threads}; results will differ in the last bits")
    progress.num_threads = threads


def skipped_in_a_row(state):
    """The most updates in a row that an optimizer of a TrainingState has skipped just now."""
    return max(optimizer.skipped_in_a_row for optimizer in state.optimizers.values())
