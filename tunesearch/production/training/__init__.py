"""Production training: all epochs of a model folder or an exported configuration, ending in a model folder."""
