"""Which kind of training each --variant is."""

from training.config import VARIANTS as STYLEGANS
from training.config import TrainingConfig
from training.decoder.config import DecoderConfig
from training.method_config import MethodConfig
from training.segmentation.config import SegmenterConfig

CONFIGS: dict[str, type[MethodConfig]] = {
    **dict.fromkeys(STYLEGANS, TrainingConfig), "segmenter": SegmenterConfig,
    "decoder": DecoderConfig}
DEFAULT_VARIANT = "2d"
