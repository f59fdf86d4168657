"""Which kind of training each --variant is."""

from training.config import VARIANTS as STYLEGANS
from training.config import TrainingConfig
from training.cycle.config import CycleConfig
from training.decoder.config import DecoderConfig
from training.method_config import MethodConfig
from training.pose.config import PoseConfig
from training.segmentation.config import SegmenterConfig
from training.translation.config import Pix2PixConfig

CONFIGS: dict[str, type[MethodConfig]] = {
    **dict.fromkeys(STYLEGANS, TrainingConfig), "segmenter": SegmenterConfig,
    "decoder": DecoderConfig, "cyclegan": CycleConfig, "pix2pix": Pix2PixConfig,
    "pose": PoseConfig}
DEFAULT_VARIANT = "2d"
