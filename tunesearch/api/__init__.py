"""The verbs of the command line, in Python, a module for each kind; ``tunesearch`` itself is their face."""
