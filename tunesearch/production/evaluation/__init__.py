"""How good a model is: on any labelled images, and on the test part, of whose use a log is kept."""
