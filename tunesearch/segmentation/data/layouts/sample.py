"""The sample layout: the built-in generated scenes, in VOC layout; made where they are not there yet."""

from __future__ import annotations

from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts.pair import Found
from tunesearch.segmentation.data.layouts.voc import find_voc_in
from tunesearch.segmentation.files import data_root


def find_sample(data: DataConfig) -> Found:
    """The pairs of the sample."""
    # Here, because drawing scenes needs NumPy and Pillow, which no other layout does.
    from tunesearch.segmentation.data.sample import sample_folder, write_sample

    return find_voc_in(write_sample(data_root(data) or sample_folder()), data)
