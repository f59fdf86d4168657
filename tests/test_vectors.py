"""The comparison with reference vectors itself: any channels and labels, and it goes red."""

import numpy as np
import pytest

from tests import vectors
from tests.test_networks import EXAMPLES, inputs, make
from tests.vector_files import Vectors, enlarge, nchw


@pytest.fixture
def folder(tmp_path):
    """Vectors of our own networks with 16 channels and three labels, in the official layout."""
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


def add_loss(folder, name):
    """Complete the file of losses with our own results for one loss at lod 0."""
    with np.load(folder / "c16_loss.npz") as file:
        arrays = dict(file)
    value, terms, grads = vectors.LossAt(Vectors(folder, "c16"), 0.0)(name)
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


@pytest.mark.parametrize("compare", [vectors.elements, vectors.losses, vectors.norms,
                                     vectors.integers])
def test_nan_is_no_agreement(compare):
    row = compare("q", "i", np.array([1.0, np.nan]), np.array([1.0, 1.0]))
    assert not row.error <= row.tolerance
    assert vectors.worst([row, compare("q", "j", np.ones(2), np.ones(2))])["q"] is row


def test_folder_without_the_tag(tmp_path, capsys):
    with pytest.raises(SystemExit):
        vectors.main([str(tmp_path), "--tag", "c9"])
    assert "holds no c9_vars.npz" in capsys.readouterr().err
