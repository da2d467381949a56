"""From images and masks on disk to batches: layouts, splits, checks, a decoded cache and augmentation."""
