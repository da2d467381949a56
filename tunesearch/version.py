"""The version of tunesearch."""

__version__ = "0.1.0"
