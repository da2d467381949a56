"""From the best configuration to production: export and train."""
