"""Everything that the official release computed; and the comparison itself can fail."""

import json
import shutil

import numpy as np
import pytest

from tests.oracles import vectors
from tests.oracles.vector_data import VARIANTS
from tests.oracles.vector_files import (
    Vectors,
    elements,
    enlarge,
    exactly,
    integers,
    losses,
    nchw,
    norms,
    relative,
)
from tests.oracles.vector_losses import LossAt
from tests.training.test_networks import EXAMPLES, inputs, make


@pytest.fixture(scope="module")
def reference(shared):
    """Return (the stored vectors, a function (check) -> its comparisons, computed once)."""
    stored, done = Vectors(shared / "reference", "c3"), {}

    def compared(check):
        if check not in done:
            done[check] = list(check(stored))
        return done[check]

    return stored, compared


@pytest.mark.parametrize("check", vectors.CHECKS, ids=lambda check: check.__name__)
def test_agrees_with_the_official_release(reference, check):
    stored, compared = reference
    if not compared(check):
        pytest.skip(next(reversed(stored.excused.values()), "its file is not in the folder"))
    vectors.assert_agreement(compared(check))


def test_everything_in_the_folder_is_compared(reference):
    stored, compared = reference
    for check in vectors.CHECKS:
        compared(check)
    assert stored.forgotten() == []
    reasons = set(stored.excused.values())
    assert len(stored.leaves()) > 4000 and len(reasons) <= 8, reasons
    compared_values = stored.leaves() - stored.excused.keys()
    assert len(compared_values) > 0.9 * len(stored.leaves())


def tampered_array(path, name):
    with np.load(path) as file:
        arrays = dict(file)
    arrays[name] = arrays[name] + np.asarray(2 if arrays[name].dtype.kind in "ui" else 0.01,
                                             arrays[name].dtype)
    np.savez(path, **arrays)


def tampered_json(path, *keys):
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = inner[keys[-1]] + (1 if isinstance(inner[keys[-1]], (int, float)) else "0")
    path.write_text(json.dumps(content))


def tampered_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


RUN = "res64_gpus2"
TAMPERED = [
    (vectors.check_schedule, "schedule.json", tampered_json, ("runs", RUN, "rows", 40, column))
    for column in range(6)] + [
    (vectors.check_schedule, "schedule.json", tampered_json,
     ("variants", name, "rows", 30, 2)) for name in VARIANTS] + [
    (vectors.check_metrics, "metrics.npz", tampered_array, (name,)) for name in (
        "mu_fake", "sigma_real", "fid", "fid_mean_term", "fid_rank_deficient_first40", "slerp_out",
        "slerp_out_t_plus_eps", "normalize_a", "lerp_out", "lerp_out_t_plus_eps", "epsilon",
        "ppl_lo", "ppl_hi", "ppl_filtered_mean", "ppl_filtered_count", "ppl_crop_512_slices")] + [
    (vectors.check_tfrecords, "tfrecords_contents.npz", tampered_array, (name,)) for name in (
        "source_images", "source_labels", "order", "tiny-r02.tfrecords/1",
        "tiny-r05.tfrecords/2")] + [
    (vectors.check_tfrecords, "tfrecords_reader.npz", tampered_array, (name,)) for name in (
        "images_lod2", "labels_lod1", "first_batch_of_2_then_2", "second_batch_of_2")] + [
    (vectors.check_tfrecords, "tfrecords.json", tampered_json, ("files", *keys)) for keys in (
        ("tiny-r04.tfrecords", "sha256"), ("tiny-r04.tfrecords", "size"),
        ("tiny-rxx.labels", "sha256"), ("tiny-r03.tfrecords", "records", 1, "head_hex"),
        ("tiny-r03.tfrecords", "records", 2, "features", "shape", "int64_list", 1))] + [
    (vectors.check_tfrecords, "tfrecords_c3_32/tiny/tiny-rxx.labels", tampered_byte, (-1,)),
    (vectors.check_official, "official_format_c3_outputs.npz", tampered_array,
     ("D_scores_of_Gs_images",)),
    (vectors.check_descriptions, "c3_vars.npz", tampered_array, ("G/dlatent_avg",))]


@pytest.fixture(scope="module")
def data_folder(shared, tmp_path_factory):
    """Return a copy of the smaller files."""
    folder = tmp_path_factory.mktemp("vectors") / "copy"
    shutil.copytree(shared / "reference", folder, copy_function=shutil.copyfile,
                    ignore=shutil.ignore_patterns("c3_[DGRgil]*", "inception*"))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize("check, name, tamper, arguments", TAMPERED)
def test_a_tampered_file_is_found(data_folder, check, name, tamper, arguments):
    kept = (data_folder / name).read_bytes()
    try:
        tamper(data_folder / name, *arguments)
        try:
            comparisons = list(check(Vectors(data_folder, "c3")))
        except (ValueError, IndexError):
            return
        assert [row for row in comparisons if not row.error <= row.tolerance]
    finally:
        (data_folder / name).write_bytes(kept)


@pytest.fixture
def folder(tmp_path):
    """Return vectors of our networks, 16 channels and three labels, in the official layout."""
    G, D = (make(kind, label_size=3) for kind in EXAMPLES)
    variables = {f"{n.name}/{k}": v for n in (G, D) for k, v in n.get_arrays().items()}
    np.savez(tmp_path / "c16_vars.npz", **variables, **{"G/lod": 0.0, "D/lod": 0.0})
    latents, labels = (x.numpy() for x in inputs(G))
    images = inputs(D)[0].numpy()
    dlatents = G.mapping(latents, labels).numpy()
    half_faded = enlarge(G.synthesis(dlatents, resolution=8, fade=0.5), 1)
    np.savez(tmp_path / "c16_G.npz", latents=latents, labels=labels, dlatents=dlatents,
             images_lod0_linear=nchw(G.synthesis(dlatents)), images_lod1p5_linear=nchw(half_faded))
    np.savez(tmp_path / "c16_D.npz", images=nchw(images), labels=labels,
             scores_lod0_linear=D(images, labels))
    np.savez(tmp_path / "c16_loss.npz", latents=latents, reals=nchw(images), labels_reals=labels,
             labels_G_loss=labels[::-1], mixing_factors=np.full([4, 1, 1, 1], 0.3, np.float32))
    return tmp_path


def add_mixing(folder, shift=0):
    """Add style mixing and the mean of w, in NumPy, as the official files describe them."""
    G, _ = Vectors(folder, "c16").networks()
    with np.load(folder / "c16_G.npz") as file:
        latents, labels = file["latents"], file["labels"]
    first, second = (G.mapping(z, labels).numpy() for z in (latents, latents[::-1]))
    before = np.linspace(-1, 1, first.shape[2], dtype=np.float32)
    arrays = {"latents": latents, "latents2": latents[::-1], "labels": labels,
              "dlatent_avg_before": before,
              "dlatent_avg_after_beta0p995": 0.995 * before + 0.005 * first[:, 0].mean(axis=0),
              "cur_layers_exclusive_upper_lod1p5": first.shape[1] - 2}
    for name, cut in (("mixed_dlatents_cutoff3_lod0", 3),
                      ("unmixed_dlatents_u0p95_lod1p5", first.shape[1] - 2)):
        arrays[name] = np.concatenate([first[:, :cut + shift], second[:, cut + shift:]], axis=1)
    np.savez(folder / "c16_mixing_avg.npz", **arrays)


def test_style_mixing_and_the_mean_of_w(folder):
    add_mixing(folder)
    rows = list(vectors.check_mixing(Vectors(folder, "c16")))
    assert len(rows) == 4
    vectors.assert_agreement(rows)
    add_mixing(folder, shift=1)
    rows = vectors.check_mixing(Vectors(folder, "c16"))
    assert sum(row.error > row.tolerance for row in rows) == 2


def add_loss(folder, name):
    """Complete the file of losses with our own results for one loss at lod 0."""
    with np.load(folder / "c16_loss.npz") as file:
        arrays = dict(file)
    value, terms, grads = LossAt(Vectors(folder, "c16"), 0.0)(name)
    arrays[f"lod0/{name}/loss"] = value[:, None]
    arrays.update({f"lod0/{name}/summary/{k}": v for k, v in terms.items()})
    arrays.update({f"lod0/{name}/gradnorm/{k}": np.linalg.norm(v) for k, v in grads.items()
                   if v is not None})
    arrays.update({f"lod0/{name}/gradnorm/{k}": 0.0 for k, v in grads.items() if v is None})
    np.savez(folder / "c16_loss.npz", **arrays)


def test_channels_and_labels_of_a_folder(folder, capsys):
    for name in ("D_wgan_gp", "D_logistic_simplegp_r1_10", "G_logistic_saturating"):
        add_loss(folder, name)
    assert vectors.main([str(folder), "--tag", "c16"]) == 0
    printed = capsys.readouterr().out
    for quantity in ("synthesis, linear", "scores, linear", "losses", "norms of gradients"):
        assert f"\n{quantity} " in "\n" + printed
    assert "check_r1: its file is not in" in printed


def test_a_wrong_array_is_found(folder, capsys):
    with np.load(folder / "c16_G.npz") as file:
        arrays = dict(file)
    arrays["images_lod1p5_linear"] = arrays["images_lod1p5_linear"] + np.float32(1e-2)
    np.savez(folder / "c16_G.npz", **arrays)
    assert vectors.main([str(folder), "--tag", "c16"]) == 1
    (line,) = [s for s in capsys.readouterr().out.splitlines() if "FAILED" in s]
    assert line.startswith("synthesis, linear") and line.endswith("images_lod1p5_linear")


@pytest.mark.parametrize("compare", [elements, losses, norms, integers, relative, exactly])
def test_nan_does_not_agree(compare):
    row = compare("q", "i", np.array([1.0, np.nan]), np.array([1.0, 1.0]))
    assert not row.error <= row.tolerance
    assert vectors.worst([row, compare("q", "j", np.ones(2), np.ones(2))])["q"] is row


def test_an_array_that_is_not_compared_is_found(folder, capsys):
    with np.load(folder / "c16_G.npz") as file:
        arrays = dict(file)
    (folder / "more.json").write_text('{"a": {"b": 1}}')
    np.savez(folder / "c16_new.npz", x=0)
    np.savez(folder / "c16_G.npz", **arrays, novelty=np.zeros(3))
    np.savez(folder / "c3_vars.npz", x=0)
    np.savez(folder / "c3_G.npz", x=0)
    assert vectors.main([str(folder), "--tag", "c16"]) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nothing of")]
    names = {line.split()[-1] for line in named}
    assert {"c16_G.npz/novelty", "c16_new.npz/x", "more.json/a/b"} <= names
    assert not [name for name in names if name.startswith("c3_")]


def test_folder_without_the_tag(tmp_path, capsys):
    with pytest.raises(SystemExit):
        vectors.main([str(tmp_path), "--tag", "c9"])
    assert "holds no c9_vars.npz" in capsys.readouterr().err
