"""Agreement of two methods that measure the same quantity, after Bland and Altman.

Bland and Altman 1986, The Lancet 327, 307-310, and 1999, Statistical Methods in Medical
Research 8, 135-160: the bias is the mean difference; 95 % of the differences are
expected within 1.96 standard deviations of it. Both are estimates, so both have an
interval, from Student's t with n - 1 degrees of freedom and the variances of the
second paper (its section 2): s²/n of the bias, s² (1/n + z²/(2 (n - 1))) of a limit.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z_95 = 1.959963984540054  # 97.5th percentile of the normal distribution

_Ends = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bias and 95 % limits of agreement, each with its 95 % interval."""

    bias: float
    limits: _Ends
    bias_interval_95: _Ends
    lower_interval_95: _Ends
    upper_interval_95: _Ends


def limits_of_agreement(differences: npt.ArrayLike) -> Limits | None:
    """Return bias and limits of agreement of (n,) independent differences.

    None for fewer than two differences, which have no spread.
    """
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:  # noqa: PLR2004 - one difference has no spread
        return None
    bias, deviation = float(values.mean()), float(values.std(ddof=1))
    reach = float(t.ppf(0.975, n - 1)) * deviation
    of_bias = reach * float(np.sqrt(1 / n))
    of_limit = reach * float(np.sqrt(1 / n + Z_95**2 / (2 * (n - 1))))
    low, high = bias - Z_95 * deviation, bias + Z_95 * deviation
    return Limits(
        bias=bias,
        limits=(low, high),
        bias_interval_95=(bias - of_bias, bias + of_bias),
        lower_interval_95=(low - of_limit, low + of_limit),
        upper_interval_95=(high - of_limit, high + of_limit),
    )
