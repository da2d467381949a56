"""tunesearch: the best training configuration for a semantic segmentation model, found and handed over."""

__version__ = "0.1.0"
