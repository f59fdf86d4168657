"""Checks of networks against reference vectors: values, intermediates, the official pickle."""

import contextlib
import re

import numpy as np
import tensorflow as tf

from dnnlib.data import pictures
from dnnlib.tflib import ops
from tests.oracles.vector_files import (
    elements,
    enlarge,
    exactly,
    growth,
    integers,
    labels_or_none,
    lod_of,
    nchw,
    nhwc,
    number,
    shrink,
)
from training.gan import style_mixing
from training.gan.growing_network import GrowingNetwork, blend
from training.snapshots import load_snapshot


def check_generator(vectors):
    """Check mapping, truncation, synthesis at every lod and in every form."""
    arrays = vectors.load(f"{vectors.tag}_G")
    if arrays is None:
        return
    (G, _), (G_fused, _) = vectors.networks(), vectors.networks(fused=True)
    latents, labels = arrays["latents"], labels_or_none(arrays["labels"])
    yield elements("mapping", "dlatents", G.mapping(latents, labels), arrays["dlatents"])
    for name in arrays:
        if match := re.fullmatch(r"dlatents_trunc_psi([\dp]+)_cut(\d+)", name):
            ours = G.truncate(arrays["dlatents"], number(match[1]), int(match[2]))
            yield elements("truncation", name, ours, arrays[name])
        elif match := re.fullmatch(r"images_lod[\dp]+_(?!uint8)(\w+)", name):
            lod, form = lod_of(name), match[1]
            if form.startswith("G_"):
                images = _complete_generator(G, latents, labels, form, lod)
            else:
                net = G_fused if form.endswith("fused") else G
                images = net.synthesis(arrays["dlatents"], **growth(net, lod))
            yield elements(f"synthesis, {form}", name, nchw(enlarge(images, int(lod))),
                           arrays[name])
    yield from _check_uint8_images(arrays)


def check_mixing(vectors):
    """Check style mixing with given draws, and one update of the mean of w."""
    arrays = vectors.load(f"{vectors.tag}_mixing_avg")
    if arrays is None:
        return
    G, _ = vectors.networks()
    labels = labels_or_none(arrays["labels"]) if "labels" in arrays else None
    dlatents, others = (G.mapping(arrays[k], labels) for k in ("latents", "latents2"))
    for name in arrays:
        if not (match := re.fullmatch(r"(mixed|unmixed|cur_layers)_.*lod[\dp]+", name)):
            continue
        layers = style_mixing.active_layers(G.num_layers, int(lod_of(name)))
        if match[1] == "cur_layers":
            yield exactly("style mixing, layers", name, layers, arrays[name])
            continue
        cutoff = re.search(r"cutoff(\d+)", name)
        cut = int(cutoff[1]) if cutoff else layers
        mixed = style_mixing.splice_styles(dlatents, others, cut)
        yield elements("style mixing", name, mixed, arrays[name])
    for name in arrays:
        if match := re.fullmatch(r"dlatent_avg_after_beta([\dp]+)", name):
            mean = np.mean(dlatents[:, 0], axis=0)
            ours = blend(mean, arrays["dlatent_avg_before"], number(match[1]))
            yield elements("mean of w", name, ours, arrays[name])


def _complete_generator(G, latents, labels, form, lod):
    """Return images of latents; form is 'G_is_validation' or 'G_trunc_psi0p7_cut8'."""
    match = re.fullmatch(r"G_trunc_psi([\dp]+)_cut(\d+)", form)
    psi, cutoff = (number(match[1]), int(match[2])) if match else (None, 8)
    return G(latents, labels, truncation_psi=psi, truncation_cutoff=cutoff, **growth(G, lod))


def _check_uint8_images(arrays):
    for name in arrays:
        if match := re.fullmatch(r"images_lod0_uint8_(nchw|nhwc_shrink(\d+))", name):
            images = nhwc(arrays["images_lod0_linear"])
            if match[2]:
                images = shrink(images, int(np.log2(int(match[2]))))
            ours = pictures.to_uint8_metrics(images)
            yield integers("uint8 images", name, nchw(ours) if match[1] == "nchw" else ours,
                           arrays[name])


def check_discriminator(vectors):
    """Check scores at every lod and in every form, and minibatch stddev by itself."""
    arrays = vectors.load(f"{vectors.tag}_D")
    if arrays is None:
        return
    (_, D), (_, D_fused) = vectors.networks(), vectors.networks(fused=True)
    images, labels = nhwc(arrays["images"]), labels_or_none(arrays["labels"])
    for name in arrays:
        if match := re.fullmatch(r"scores_lod[\dp]+_(\w+?)(?:_first(\d+)of\d+)?", name):
            net, theirs = D_fused if match[1].endswith("fused") else D, arrays[name]
            count = len(theirs)
            lod = lod_of(name)
            ours = net(shrink(images[:count], int(lod)), None if labels is None else labels[:count],
                       **growth(net, lod))
            yield elements(f"scores, {match[1]}", name, ours, theirs)
        elif match := re.fullmatch(r"mbstd_out_g(\d+)_f(\d+)", name):
            ours = ops.minibatch_stddev(nhwc(arrays["mbstd_in"]), int(match[1]), int(match[2]))
            yield elements("minibatch stddev", name, nchw(ours), arrays[name])


def check_primitives(vectors):
    """Check every operation by itself."""
    arrays = vectors.load("primitives")
    if arrays is None:
        return
    x = tf.constant(nhwc(arrays["x"]))
    (kernel_name,) = (k for k in arrays if k.startswith("kernel_"))
    kernel = arrays[kernel_name]
    weight = tf.constant(kernel * np.float32(ops.he_std(kernel.shape)))
    flipped = weight[::-1, ::-1]
    results = {
        "blur121": ops.blur2d(x), "upscale2": ops.upscale2d(x), "downscale2": ops.downscale2d(x),
        "upscale4": ops.upscale2d(ops.upscale2d(x)),
        "downscale4": ops.downscale2d(ops.downscale2d(x)), "lrelu": ops.leaky_relu(x),
        "pixel_norm": ops.pixel_norm(x), "instance_norm": ops.instance_norm(x),
        "upconv_notfused": ops.conv2d(ops.upscale2d(x), weight),
        "upconv_fused": ops.fused_upscale(x, ops.upscale_kernel(flipped)),
        "convdown_notfused": ops.downscale2d(ops.conv2d(x, weight)),
        "convdown_fused": ops.fused_downscale(x, ops.downscale_kernel(weight)),
        "conv_gain_sqrt2_wscale": ops.conv2d(x, weight)}
    for name, ours in results.items():
        yield elements("primitives", name, nchw(ours), arrays[name])
    (coef_name,) = (k for k in arrays if k.startswith("runtime_coef"))
    coef = np.float32(ops.he_std(kernel.shape))
    yield elements("primitives", coef_name, coef, arrays[coef_name])


# ---------------------------------------------------------------------------- intermediates


def check_intermediates(vectors):
    """Check the output of every operation inside the networks, in the unfused form.

    The k-th call of an operation in ours is the k-th of that operation in the official network.
    """
    arrays = vectors.load(f"{vectors.tag}_intermediates")
    inputs, images = (vectors.load(f"{vectors.tag}_{name}") for name in "GD")
    if arrays is None or inputs is None or images is None:
        return
    G, D = vectors.networks()
    G.use_fused_resampling = D.use_fused_resampling = lambda resolution, fmaps: False
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
    kept_bias = GrowingNetwork._bias
    try:
        for name, official in names.items():
            setattr(ops, name, recorded(official, kept[name]))
        GrowingNetwork._bias = recorded("apply_bias", kept_bias)
        yield calls
    finally:
        for name, function in kept.items():
            setattr(ops, name, function)
        GrowingNetwork._bias = kept_bias


# ---------------------------------------------------------------------------- official pickle


def check_official(vectors):
    """Check a pickle as the official release distributes networks: images, dlatents and scores."""
    path = vectors.path(f"official_format_{vectors.tag}.pkl")
    arrays = vectors.load(f"official_format_{vectors.tag}_outputs")
    if path is None or arrays is None:
        return
    snapshot = load_snapshot(path)
    networks, lod = snapshot.networks, snapshot.header["lod"]
    (critic,) = (network for name, network in networks.items() if name.startswith("D_"))
    latents = arrays["latents"]
    growth_of = {"Gs": lod, "G": {"resolution": lod["resolution"], "fade": 0.0}}
    for name in arrays:
        if match := re.fullmatch(r"(Gs?)_images_psi([\dp]+)_cut(\d+)_const_noise", name):
            images = networks[match[1]](
                latents, truncation_psi=number(match[2]), truncation_cutoff=int(match[3]),
                **growth_of[match[1]])
            yield elements("official pickle, images", name, nchw(images), arrays[name])
            if match[1] == "Gs":
                scores = critic(nhwc(arrays[name]))
                key = "D_scores_of_Gs_images"
                yield elements("official pickle, scores", key, scores, arrays[key])
    yield elements("official pickle, dlatents", "Gs_dlatents", networks["Gs"].mapping(latents),
                   arrays["Gs_dlatents"])
