"""Real data sets, files, and rows in memory."""

from __future__ import annotations

# What every loader returns
from ppl_vae.data.dataset import Dataset

# Bundled with scikit-learn: no download
from ppl_vae.data.digits import load_digits
from ppl_vae.data.iris import load_iris
from ppl_vae.data.wine import load_wine

# From files
from ppl_vae.data.files import load_file  # isort: skip
from ppl_vae.data.mnist import load_mnist  # isort: skip

# Grey levels, and columns of few values
from ppl_vae.data.levels import few_values, grey_levels  # isort: skip

# Densities on the plane, known exactly
from ppl_vae.data.toy import TOYS, CheckerboardSquares, Corners, EightGaussians, FourCircles, Toy  # isort: skip

# Rows in memory, rows that stay where they are, and what one call of a pair sees
from ppl_vae.data.rows import Batch, Column, Rows  # isort: skip
from ppl_vae.data.source import Source, source_of  # isort: skip

# A random transform of each batch
from ppl_vae.data.batches import dynamic_binarization  # isort: skip

__all__ = [
    "TOYS",
    "Batch",
    "CheckerboardSquares",
    "Column",
    "Corners",
    "Dataset",
    "EightGaussians",
    "FourCircles",
    "Rows",
    "Source",
    "Toy",
    "dynamic_binarization",
    "few_values",
    "grey_levels",
    "load_digits",
    "load_file",
    "load_iris",
    "load_mnist",
    "load_wine",
    "source_of",
]
