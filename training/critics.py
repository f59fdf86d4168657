"""Which discriminator sees which channels in which stage, as data.

Style-GAN has one critic on RGB, Style-C-GAN one on all channels, Style-C-GAN-2D both; critics take
turns (Korneliusson et al. 2019, section 2).
"""

from dataclasses import dataclass

from dnnlib.data.channels import NUM_COLOURS

STAGES = ("rgb", "binary", "classes")


@dataclass(frozen=True)
class Critic:
    """A discriminator's place in training: it sees the first `channels` channels of every image.

    `grows_from`: the critic of the stage before whose weights it starts from. `rgb_grad`: scale of
    its gradient on G's colour channels.
    """

    name: str
    channels: int
    grows_from: str | None = None
    rgb_grad: float = 1.0


def stage_channels(stage_name, num_classes):
    """Channels of G in a stage: the colours, one binary map more, or one map per class more."""
    return NUM_COLOURS + {"rgb": 0, "binary": 1, "classes": num_classes}[stage_name]


def stage_critics(variant, stage_name, num_classes, joint_rgb_grad=1.0):
    """The critics of one stage, in the order of their turns.

    All variants share the RGB stage, so that one RGB training serves them all.
    """
    image_critic = Critic("rgb", NUM_COLOURS, grows_from=None if stage_name == "rgb" else "rgb")
    if stage_name == "rgb":
        return (image_critic,)
    joint = Critic("joint", stage_channels(stage_name, num_classes),
                   grows_from="rgb" if stage_name == "binary" else "joint",
                   rgb_grad=joint_rgb_grad)
    return (image_critic, joint) if variant == "2d" else (joint,)


def variant_stages(variant):
    """Names of the stages that a variant goes through."""
    return STAGES[:1] if variant == "rgb" else STAGES
