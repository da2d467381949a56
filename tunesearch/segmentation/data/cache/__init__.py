"""The decoded cache: every image of a part decoded and resized once per node, then memory-mapped by every process.

Decoding a JPEG costs more than training a small network on it, and many trials read the same images at the same size.
An entry is a folder of two NumPy files, named by a hash of everything that its content depends on, so it can never be
stale: only missing or damaged, and then it is made again. Checksums, which a process looks at when it first uses an
entry, tell damage. Several processes share the pages of one mapping.
"""

from tunesearch.segmentation.data.cache.build import decoded, original_masks
from tunesearch.segmentation.data.cache.parts import DecodedPart, OriginalMasks, Rows

__all__ = ["DecodedPart", "OriginalMasks", "Rows", "decoded", "original_masks"]
