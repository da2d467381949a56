"""What is known about a search: its trials, what people asked of it, how each ended. The truth; all else is a view."""
