"""Parameters and conditions, and the space they span: a picklable callable over anything with Optuna's ``suggest_*``.

File order is sampling order. A parameter whose ``when`` does not hold is inactive: it is not sampled and absent from
the point, and so is everything that depends on it. A point is a dict from parameter name to value.
"""

from tunesearch.space.domains import Choice, Domain, FloatRange, IntRange, Point, Scalar, Suggests, same, text
from tunesearch.space.reading import DOMAIN_KEYS, read_parameter
from tunesearch.space.space import GRID_RULE, Parameter, Space, when_text

__all__ = [
    "DOMAIN_KEYS",
    "GRID_RULE",
    "Choice",
    "Domain",
    "FloatRange",
    "IntRange",
    "Parameter",
    "Point",
    "Scalar",
    "Space",
    "Suggests",
    "read_parameter",
    "same",
    "text",
    "when_text",
]
