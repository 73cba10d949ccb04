"""The table of problems that a compiled SVI step must cover: one file a theme, one row a kind of problem.

A row without ``falls_back`` must be captured, and the compiled steps must be the eager ones; a row with it must be
recognized, run eagerly, and the reason given must match.
"""

from .base import Problem, Row
from .codes import ROWS_OF_CODES
from .distributions import ROWS_OF_DISTRIBUTIONS
from .enumeration import ROWS_OF_ENUMERATION
from .flows import ROWS_OF_FLOWS
from .losses import ROWS_OF_LOSSES
from .networks import ROWS_OF_NETWORKS
from .objectives import ROWS_OF_OBJECTIVES
from .parameters import ROWS_OF_PARAMETERS
from .snags import ROWS_OF_SNAGS
from .statements import ROWS_OF_STATEMENTS

TABLE: list[Row] = [
    *ROWS_OF_LOSSES,
    *ROWS_OF_ENUMERATION,
    *ROWS_OF_OBJECTIVES,
    *ROWS_OF_CODES,
    *ROWS_OF_PARAMETERS,
    *ROWS_OF_STATEMENTS,
    *ROWS_OF_FLOWS,
    *ROWS_OF_DISTRIBUTIONS,
    *ROWS_OF_NETWORKS,
    *ROWS_OF_SNAGS,
]

__all__ = ["TABLE", "Problem", "Row"]
