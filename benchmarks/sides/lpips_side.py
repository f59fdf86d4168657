"""Compute values with the packages lpips and torch-fidelity, in an interpreter that has them.

    python -m benchmarks.sides.lpips_side INPUTS.npz WEIGHTS.npz VALUES.npz

writes WEIGHTS.npz by the recipe that users are given, but with a random trunk, and VALUES.npz:
LPIPS of the pairs of images in INPUTS.npz, and path lengths in z, one per seed, of a network that
both sides can compute.
"""

import sys

import lpips
import numpy as np
import torch
from torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
from torch_fidelity.metric_ppl import KEY_METRIC_PPL_RAW, calculate_ppl
from torch_fidelity.registry import register_sample_similarity
from torch_fidelity.sample_similarity_base import SampleSimilarityBase

NUM_PATHS = 24


class Painter(torch.nn.Module):
    """tanh(latent @ matrix) as an image in [0, 255]; the latent is normalised to length 1 first."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.tensor(matrix)

    def forward(self, latents):
        latents = latents / latents.norm(dim=1, keepdim=True)
        images = torch.tanh(latents @ self.matrix).reshape(len(latents), 32, 32, 3)
        return (images.permute(0, 3, 1, 2) + 1) * 127.5


def main(inputs_path, weights_path, values_path):
    """Read inputs, write weights and values."""
    inputs = np.load(inputs_path, allow_pickle=False)
    torch.manual_seed(0)
    distance = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    np.savez(weights_path, **distance.state_dict())
    for parameter in distance.parameters():
        parameter.requires_grad = False

    def measure(images1, images2):
        return distance(images1 / 127.5 - 1, images2 / 127.5 - 1).reshape(-1)

    class Similarity(SampleSimilarityBase):
        """LPIPS for torch-fidelity, which would otherwise download its own."""

        def __init__(self, name, **options):
            super().__init__(name)

        def forward(self, images1, images2):
            return measure(images1, images2)

    register_sample_similarity("lpips", Similarity)
    values = {}
    for name in sorted({key[:-2] for key in inputs.files if key.startswith("pair_")}):
        pair = (torch.tensor(inputs[f"{name}_{i}"]).permute(0, 3, 1, 2) for i in (1, 2))
        values[name] = measure(*pair).numpy()
    values["lengths"] = np.concatenate([
        path_lengths(inputs["matrix"], seed) for seed in range(NUM_PATHS)])
    np.savez(values_path, **values)


def path_lengths(matrix, seed):
    """Return torch-fidelity's path length of one pair, float64 [1]."""
    model = GenerativeModelModuleWrapper(Painter(matrix), matrix.shape[0], "normal", 0)
    return calculate_ppl(
        1, input1=model, input1_model_num_samples=1, batch_size=1, cuda=False, verbose=False,
        rng_seed=seed, ppl_epsilon=1e-4, ppl_z_interp_mode="slerp_unit", ppl_reduction="none",
        ppl_sample_similarity="lpips", ppl_sample_similarity_resize=None,
        ppl_sample_similarity_dtype="float32", ppl_discard_percentile_lower=None,
        ppl_discard_percentile_higher=None)[KEY_METRIC_PPL_RAW]


if __name__ == "__main__":
    main(*sys.argv[1:])
