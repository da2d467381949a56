"""Training segmentation models; has never heard of tuning."""

import os

# albumentations looks for a newer version of itself over the network when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
