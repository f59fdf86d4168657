"""Our networks, losses and image conversions against numbers of the official release.

    python -m tests.vectors DIR --tag c3

compares with a folder of reference vectors (its README explains every array), prints the worst
error of every quantity and exits with status 1 where one is above its tolerance. What the network
is (resolution, channels, maps, labels, layers) is read off the arrays. The tests use the same
functions.
"""

import argparse
import contextlib
import json
import re
import sys

import numpy as np
import tensorflow as tf

from dnnlib import pictures
from dnnlib.tflib import ops
from tests.vector_files import (
    Vectors,
    elements,
    enlarge,
    growth,
    integers,
    labels_or_none,
    lod_of,
    losses,
    nchw,
    nhwc,
    norms,
    number,
    shrink,
)
from training import loss
from training.config import TrainingConfig
from training.networks_stylegan import _GrowingNetwork
from training.reals import adjust_dynamic_range, fade_reals
from training.schedule import training_schedule

# ---------------------------------------------------------------------------- networks


def check_generator(vectors):
    """Mapping, truncation, synthesis at every lod and in every form."""
    arrays = vectors.load(f"{vectors.tag}_G")
    if arrays is None:
        return
    (G, _), (G_fused, _) = vectors.networks(), vectors.networks(fused=True)
    latents, labels = arrays["latents"], labels_or_none(arrays["labels"])
    yield elements("mapping", "dlatents", G.mapping(latents, labels), arrays["dlatents"])
    for name, theirs in arrays.items():
        if match := re.fullmatch(r"dlatents_trunc_psi([\dp]+)_cut(\d+)", name):
            ours = G.truncate(arrays["dlatents"], number(match[1]), int(match[2]))
            yield elements("truncation", name, ours, theirs)
        elif match := re.fullmatch(r"images_lod[\dp]+_(\w+)", name):
            if theirs.dtype == np.uint8:
                continue
            lod, form = lod_of(name), match[1]
            if form.startswith("G_"):
                images = _complete_generator(G, latents, labels, form, lod)
            else:
                net = G_fused if form.endswith("fused") else G
                images = net.synthesis(arrays["dlatents"], **growth(net, lod))
            yield elements(f"synthesis, {form}", name, nchw(enlarge(images, int(lod))), theirs)
    yield from _check_uint8_images(arrays)


def _complete_generator(G, latents, labels, form, lod):
    """Latents to images; form is 'G_is_validation' or 'G_trunc_psi0p7_cut8'."""
    match = re.fullmatch(r"G_trunc_psi([\dp]+)_cut(\d+)", form)
    psi, cutoff = (number(match[1]), int(match[2])) if match else (None, 8)
    return G(latents, labels, truncation_psi=psi, truncation_cutoff=cutoff, **growth(G, lod))


def _check_uint8_images(arrays):
    for name, theirs in arrays.items():
        if match := re.fullmatch(r"images_lod0_uint8_(nchw|nhwc_shrink(\d+))", name):
            images = nhwc(arrays["images_lod0_linear"])
            if match[2]:
                images = shrink(images, int(np.log2(int(match[2]))))
            ours = pictures.to_uint8_metrics(images)
            yield integers("uint8 images", name, nchw(ours) if match[1] == "nchw" else ours, theirs)


def check_discriminator(vectors):
    """Scores at every lod and in every form, and minibatch stddev by itself."""
    arrays = vectors.load(f"{vectors.tag}_D")
    if arrays is None:
        return
    (_, D), (_, D_fused) = vectors.networks(), vectors.networks(fused=True)
    images, labels = nhwc(arrays["images"]), labels_or_none(arrays["labels"])
    for name, theirs in arrays.items():
        if match := re.fullmatch(r"scores_lod[\dp]+_(\w+?)(?:_first(\d+)of\d+)?", name):
            net, count = D_fused if match[1].endswith("fused") else D, len(theirs)
            lod = lod_of(name)
            ours = net(shrink(images[:count], int(lod)), None if labels is None else labels[:count],
                       **growth(net, lod))
            yield elements(f"scores, {match[1]}", name, ours, theirs)
        elif match := re.fullmatch(r"mbstd_out_g(\d+)_f(\d+)", name):
            ours = ops.minibatch_stddev(nhwc(arrays["mbstd_in"]), int(match[1]), int(match[2]))
            yield elements("minibatch stddev", name, nchw(ours), theirs)


def check_primitives(vectors):
    """Every operation by itself."""
    arrays = vectors.load("primitives")
    if arrays is None:
        return
    x = tf.constant(nhwc(arrays["x"]))
    (kernel_name,) = (k for k in arrays if k.startswith("kernel_"))
    kernel = arrays[kernel_name]
    weight = ops.equalised_weight(tf.constant(kernel))
    flipped = weight[::-1, ::-1]
    results = {
        "blur121": ops.blur2d(x), "upscale2": ops.upscale2d(x), "downscale2": ops.downscale2d(x),
        "upscale4": ops.upscale2d(ops.upscale2d(x)),
        "downscale4": ops.downscale2d(ops.downscale2d(x)), "lrelu": ops.leaky_relu(x),
        "pixel_norm": ops.pixel_norm(x), "instance_norm": ops.instance_norm(x),
        "upconv_notfused": ops.upscale2d_conv2d(x, weight),
        "upconv_fused": ops.upscale2d_conv2d(x, flipped, fused=True),
        "convdown_notfused": ops.conv2d_downscale2d(x, weight),
        "convdown_fused": ops.conv2d_downscale2d(x, weight, fused=True),
        "conv_gain_sqrt2_wscale": ops.conv2d(x, weight)}
    for name, ours in results.items():
        yield elements("primitives", name, nchw(ours), arrays[name])
    (coef_name,) = (k for k in arrays if k.startswith("runtime_coef"))
    coef = ops.equalised_weight(tf.ones_like(kernel))[0, 0, 0, 0]
    yield elements("primitives", coef_name, coef, arrays[coef_name])


# ---------------------------------------------------------------------------- intermediates


def check_intermediates(vectors):
    """Output of every operation inside the networks, in the unfused form.

    The k-th call of an operation in ours is the k-th of that operation in the official network.
    """
    arrays = vectors.load(f"{vectors.tag}_intermediates")
    inputs, images = (vectors.load(f"{vectors.tag}_{name}") for name in "GD")
    if arrays is None or inputs is None or images is None:
        return
    G, D = vectors.networks()
    G.use_fused = D.use_fused = lambda resolution, fmaps: False
    with _recorded_calls() as calls:
        G.mapping(inputs["latents"], labels_or_none(inputs["labels"]))
        G.synthesis(inputs["dlatents"])
        D(nhwc(images["images"]), labels_or_none(images["labels"]))
    for operation, outputs in calls.items():
        names = [k for k in arrays if k.split("/")[-1] == operation]
        if len(names) != len(outputs):
            raise ValueError(f"{operation}: called {len(outputs)} times, reference has {names}")
        for name, ours in zip(names, outputs):
            ours = nchw(ours) if ours.ndim == 4 else ours
            yield elements(f"intermediates, {operation}", name, ours[:len(arrays[name])],
                           arrays[name])
    for name in arrays:
        if name.split("/")[-1] not in calls:
            raise ValueError(f"{name}: no operation of ours is compared with it")


@contextlib.contextmanager
def _recorded_calls():
    """Yield {operation: [output, ...]} that fills with the calls made inside."""
    calls = {}

    def recorded(name, function):
        def record(*args, **kwargs):
            output = function(*args, **kwargs)
            calls.setdefault(name, []).append(np.asarray(output))
            return output
        return record

    names = {name: name for name in (
        "pixel_norm", "dense", "leaky_relu", "apply_noise", "instance_norm", "style_mod", "conv2d",
        "upscale2d", "downscale2d", "blur2d")}
    names["minibatch_stddev"] = "mbstd"
    kept = {name: getattr(ops, name) for name in names}
    kept_bias = _GrowingNetwork._bias
    try:
        for name, official in names.items():
            setattr(ops, name, recorded(official, kept[name]))
        _GrowingNetwork._bias = recorded("apply_bias", kept_bias)
        yield calls
    finally:
        for name, function in kept.items():
            setattr(ops, name, function)
        _GrowingNetwork._bias = kept_bias


# ---------------------------------------------------------------------------- losses, gradients


def loss_options(name):
    """Official name of a loss -> keywords of our discriminator_loss or generator_loss.

    Official defaults: gradient penalty weight 10 for WGAN-GP and hinge.
    """
    if match := re.fullmatch(r"D_logistic_simplegp(?:_r1_([\dp]+))?(?:_r2_([\dp]+))?", name):
        r1, r2 = (number(g or "0") for g in match.groups())
        return {"kind": "logistic", "r1_gamma": r1, "r2_gamma": r2}
    match = re.fullmatch(r"([GD])_(\w+?)(_gp)?", name)
    options = {"kind": match[2]}
    if match[1] == "D":
        options.update(r1_gamma=0.0, wgan_lambda=10.0 if match[3] else 0.0)
    return options


class LossAt:
    """Losses of the stored networks on the stored inputs at one lod."""

    def __init__(self, vectors, lod):
        self.G, self.D = vectors.networks()
        arrays = vectors.load(f"{vectors.tag}_loss")
        self.octaves, self.growth = int(lod), growth(self.D, lod)
        self.latents, self.mix = (tf.constant(arrays[k]) for k in ("latents", "mixing_factors"))
        self.reals = tf.constant(shrink(nhwc(arrays["reals"]), self.octaves))
        self.labels = {"D": labels_or_none(arrays["labels_reals"]),
                       "G": labels_or_none(arrays["labels_G_loss"])}

    def __call__(self, name):
        """(loss per sample, terms, {variable: gradient of the mean}) of an official loss name."""
        who, options = name[0], loss_options(name)
        network, labels = (self.G, self.D)[who == "D"], self.labels[who]

        def score(images):
            return self.D(images, labels, **self.growth)

        with tf.GradientTape() as tape:
            fakes = self.G(self.latents, labels, **self.growth)
            if who == "G":
                value, terms = loss.generator_loss(score, fakes, **options), {}
            else:
                value, terms = loss.discriminator_loss(
                    score, self.reals, tf.stop_gradient(fakes), mix=self.mix, octaves=self.octaves,
                    **options)
            mean = tf.reduce_mean(value)
        grads = tape.gradient(mean, list(network.trainables.values()))
        return value, terms, dict(zip(network.trainables, grads))


def check_losses(vectors):
    """Losses, reported terms, norms of gradients; and gradients in full where there are files."""
    arrays = vectors.load(f"{vectors.tag}_loss")
    if arrays is None:
        return
    for lod_name in sorted({k.split("/")[0] for k in arrays if k.startswith("lod")}):
        at = LossAt(vectors, lod_of(lod_name))
        for name in sorted({k.split("/")[1] for k in arrays if k.startswith(f"{lod_name}/")}):
            value, terms, grads = at(name)
            item = f"{lod_name}/{name}"
            yield _compare_loss(item, value, arrays[f"{item}/loss"])
            yield from _compare_terms(item, terms, arrays)
            for var in grads:
                theirs = arrays[f"{item}/gradnorm/{var}"]
                ours = 0.0 if grads[var] is None else np.linalg.norm(grads[var])
                yield norms("norms of gradients", f"{item}/{var}", ours, theirs)
            full = vectors.load(f"{vectors.tag}_grads_{name}_{lod_name}")
            for var, theirs in (full or {}).items():
                yield norms(f"gradients, {name}", f"{lod_name}/{var}", grads[var], theirs)


def _compare_loss(item, value, theirs):
    """[N, N] arrays are scores [N, 1] + penalties [N] broadcast: only their mean has a meaning."""
    if theirs.shape[1] > 1:
        return losses("losses", item, np.mean(value), theirs.mean())
    return losses("losses", item, value, theirs[:, 0])


def _compare_terms(item, terms, arrays):
    names = {k.split("/summary/")[1] for k in arrays if k.startswith(f"{item}/summary/")}
    if names != set(terms):
        raise ValueError(f"{item}: we report {sorted(terms)}, reference {sorted(names)}")
    for name in sorted(names):
        compare = losses if "norm" in name or "r1" in name or "r2" in name else elements
        theirs = arrays[f"{item}/summary/{name}"]
        yield compare(f"terms, {name}", f"{item}/{name}", terms[name], theirs)


def check_r1(vectors):
    """R1 by itself: penalty, gradient by the image, second derivative by every variable."""
    arrays = vectors.load(f"{vectors.tag}_R1")
    if arrays is None or vectors.load(f"{vectors.tag}_loss") is None:
        return
    for lod_name in sorted({k.split("/")[0] for k in arrays}):
        at = LossAt(vectors, lod_of(lod_name))
        with tf.GradientTape() as tape:
            scores, gradient = loss.score_and_gradient(
                lambda x, at=at: at.D(x, at.labels["D"], **at.growth), at.reals)
            penalty = loss.squared_norm(gradient, at.octaves)
            mean = tf.reduce_mean(penalty)
        grads = tape.gradient(mean, at.D.trainables)
        yield elements("R1, scores", lod_name, scores, arrays[f"{lod_name}/real_scores"])
        yield losses("R1, penalty", lod_name, penalty, arrays[f"{lod_name}/r1_penalty"])
        theirs = arrays[f"{lod_name}/dscore_dimage"]
        ours = nchw(enlarge(gradient, at.octaves))[:len(theirs)] / 4 ** at.octaves
        yield norms("R1, gradient by image", lod_name, ours, theirs)
        for var in grads:
            theirs = arrays[f"{lod_name}/grad_mean_r1/{var}"]
            yield norms("R1, gradients by variable", f"{lod_name}/{var}", grads[var], theirs)


# ---------------------------------------------------------------------------- images, schedule


def check_reals(vectors):
    """Processing of reals (all channels as colours), and conversions from and to uint8."""
    arrays = vectors.load("process_reals")
    if arrays is None:
        return
    for name, theirs in arrays.items():
        if match := re.fullmatch(r"reals_(c\d+)_lod[\dp]+", name):
            lod = lod_of(name)
            x = adjust_dynamic_range(nhwc(arrays[f"x_uint8_{match[1]}"]), [0, 255], [-1, 1])
            ours = enlarge(fade_reals(x, tf.constant(lod - int(lod), tf.float32)), int(lod))
            yield elements("reals", name, nchw(ours), theirs)
    levels = np.arange(256, dtype=np.float32)
    name = "adjust_dynamic_range_0_255_to_m1_1"
    yield elements("dynamic range", name, adjust_dynamic_range(levels, [0, 255], [-1, 1]),
                   arrays[name])
    # The official function subtracts drange[0] where it should add it: (x + 1) * 2 / 255 for
    # [-1, 1]. Its numbers follow from the right ones; it has no counterpart here.
    name = "convert_images_from_uint8_0_255"
    ours = adjust_dynamic_range(levels, [0, 255], [-1, 1]) + np.float32(1 + 2 / 255)
    yield elements("dynamic range", name, ours, arrays[name].reshape(-1))
    values = arrays["to_pil_input"]
    yield integers("uint8 conversion", "to_pil_uint8", pictures.to_uint8(values),
                   arrays["to_pil_uint8_of_m1_1"])
    name = "convert_images_to_uint8_of_to_pil_input"
    yield integers("uint8 conversion", name, pictures.to_uint8_metrics(values),
                   arrays[name].reshape(-1))


def check_schedule(vectors):
    """lod, resolution, minibatch, learning rates and tick length of every stored run."""
    path = vectors.folder / "schedule.json"
    if not path.is_file():
        return
    table = json.loads(path.read_text())
    for key, run in table["runs"].items():
        resolution, gpus = re.fullmatch(r"res(\d+)_gpus(\d+)", key).groups()
        settings = table["minibatch_settings"][gpus]
        minibatch = {int(k): v for k, v in settings["minibatch_dict"].items()}
        minibatch.setdefault(2 * max(minibatch), settings["minibatch_base"])
        config = TrainingConfig(variant="rgb", resolution=int(resolution), minibatch=minibatch,
                                lrate={4: 0.001, 128: 0.0015, 256: 0.002, 512: 0.003})
        stages = [training_schedule(config, 0, nimg) for nimg in table["cur_nimg"]]
        ours = [[s.lod, s.resolution, s.minibatch, s.lrate, s.lrate, s.tick_kimg] for s in stages]
        yield elements("schedule", key, ours, run["rows"])


CHECKS = (check_primitives, check_generator, check_discriminator, check_intermediates, check_losses,
          check_r1, check_reals, check_schedule)


# ---------------------------------------------------------------------------- command line


def worst(comparisons):
    """{quantity: its comparison with the largest error}, in order of appearance."""
    result = {}
    for comparison in comparisons:
        known = result.get(comparison.quantity)
        if known is None or not comparison.error <= known.error:
            result[comparison.quantity] = comparison
    return result


def assert_agreement(comparisons):
    """For tests: there is something to compare, and all of it agrees."""
    rows = worst(comparisons).values()
    assert rows, "nothing was compared"
    assert not [row for row in rows if not row.error <= row.tolerance]


def main(argv=None):
    """Print the table; 0 where everything agrees, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="folder of reference vectors")
    parser.add_argument("--tag", default="c3", help="configuration, the files' prefix (default c3)")
    args = parser.parse_args(argv)
    vectors, failed = Vectors(args.folder, args.tag), 0
    if vectors.load(f"{args.tag}_vars") is None:
        parser.error(f"{args.folder} holds no {args.tag}_vars.npz")
    for check in CHECKS:
        comparisons = list(check(vectors))
        if not comparisons:
            print(f"{check.__name__}: its file is not in {args.folder}")
        for row in worst(comparisons).values():
            count = sum(c.quantity == row.quantity for c in comparisons)
            verdict = "ok" if row.error <= row.tolerance else "FAILED"
            failed += verdict != "ok"
            print(f"{row.quantity:48} {row.error:9.1e} of {row.tolerance:.0e}  {verdict:6} "
                  f"{count:4} arrays, worst {row.item}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
