"""Training segmentation models; has never heard of tuning."""
