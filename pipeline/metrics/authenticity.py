"""AuthPct: the share of generated images that are authentic, not one training image's near copies (Alaa et al. 2022).

arXiv:2102.08921, section 3.3, as dgm-eval and fld measure it: a generated image is authentic if its nearest training
image is nearer to another training image than to the generated one.
"""

import numpy as np

from pipeline.metrics.sampling_error import share_error, strata
from pipeline.metrics.types import Comparison, Estimate


def authenticity(comparison: Comparison) -> dict[str, Estimate]:
    """auth_pct: the percentage, 0 to 100, of generated images that are authentic.

    Held-out images are the yardstick: they have neither 100 nor 50, but what the density of the data makes of them.
    Far above theirs are images that are far from all real ones; far below, near copies. The error is that of other
    generated images.

    Raises:
        NotAvailable: one side has no features, or there are too few training images.
    """
    distances, indices = comparison.generated.neighbours_in(comparison.real)
    authentic = comparison.real.neighbour_distances[indices[:, 0], 0] < distances[:, 0]
    error = share_error(authentic, strata(comparison.generated.labels, len(authentic)))
    return {"auth_pct": Estimate(100 * float(np.mean(authentic)), None if error is None else 100 * error)}
