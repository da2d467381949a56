"""The configuration: TrainConfig is one training, DataConfig one data set. Both are plain data.

This package imports neither torch nor any other heavy library, so that the command line can validate a file at once.

    names          the names that can be chosen from
    train_fields   every field of a training
    train          how the fields fit together
    governing      which fields have an effect in which configurations
    data           every field of a data set
    size, values, loss_terms   how single values are read
"""

from tunesearch.segmentation.config.data import ClassSpec, DataConfig, Folds
from tunesearch.segmentation.config.governing import GOVERNS
from tunesearch.segmentation.config.loss_terms import loss_terms
from tunesearch.segmentation.config.names import (
    ARCHITECTURES,
    AUGMENTATIONS,
    BATCHES_OF_TWO,
    CLASS_WEIGHTS,
    ENCODER_ARCHITECTURES,
    IMPORT_PATH,
    LOSSES,
    OPTIMIZERS,
    PIXEL_LOSSES,
    PRECISIONS,
    SCHEDULES,
    VAL_METRICS,
)
from tunesearch.segmentation.config.size import Size
from tunesearch.segmentation.config.train import TrainConfig

__all__ = [
    "ARCHITECTURES",
    "AUGMENTATIONS",
    "BATCHES_OF_TWO",
    "CLASS_WEIGHTS",
    "ENCODER_ARCHITECTURES",
    "GOVERNS",
    "IMPORT_PATH",
    "LOSSES",
    "OPTIMIZERS",
    "PIXEL_LOSSES",
    "PRECISIONS",
    "SCHEDULES",
    "VAL_METRICS",
    "ClassSpec",
    "DataConfig",
    "Folds",
    "Size",
    "TrainConfig",
    "loss_terms",
]
