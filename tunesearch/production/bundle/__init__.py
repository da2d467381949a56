"""The model folder: one trained network with everything that is needed to use, audit and train it again.

    DIR/bundle.json          what it is: origin, score, classes, preprocessing, versions, programs; a hash of every file
    DIR/config.yaml          the configuration, as ``tunesearch export FILE.yaml`` writes it, without the data's root
    DIR/effective.json       the configuration as read back from the built objects
    DIR/split.json           ids and hashes of the training, validation and test images
    DIR/metrics.json         every epoch's metrics, IoU per class among them
    DIR/weights.safetensors  the weights of the best epoch
    DIR/model.pt2            the network as a program that needs torch alone
    DIR/model.onnx           the same for ONNX runtimes
    DIR/README.md            the model card
    DIR/code/                the user's own modules, where architecture, loss or layout is ``module:function``

A folder holds nothing of the machine that wrote it, and nothing in it is a pickle of ours.
"""

from tunesearch.production.bundle.description import FORMAT, Training
from tunesearch.production.bundle.reading import Bundle, is_bundle, load_network, read_bundle
from tunesearch.production.bundle.writing import FORMATS, require_new, write_bundle

__all__ = [
    "FORMAT",
    "FORMATS",
    "Bundle",
    "Training",
    "is_bundle",
    "load_network",
    "read_bundle",
    "require_new",
    "write_bundle",
]
