"""The voltage that meters see: nominal, less what their neighbours' load costs on the way.

A service transformer and its cables drop voltage in proportion to the net load of the meters
behind them, and raise it when those export. Above that stand the feeder, which sags for everyone
in the evening, and the transformer's own tap.
"""

import numpy as np
from numpy.typing import NDArray

from meterlake.simulate.chance import MINUTES_PER_DAY, Floats, Minutes, Purpose, keyed
from meterlake.simulate.fleet import Fleet

# Share of the nominal voltage that is lost if every meter draws its whole contract load; planners
# allow a service transformer and its cables a few per cent at the load that they expect.
SAG_AT_CONTRACT_LOAD = 0.10
# EN 50160 keeps supply within 10 % of nominal; nothing here leaves that band.
BAND = 0.10

_TAP_SPREAD = 0.006
_EVENING_SAG = 0.004
_NOISE = 0.0012


def service_voltage_v(
    fleet: Fleet, seed: int, *, nominal_v: float, minutes: Minutes, net_kw: Floats, jitter: Floats
) -> NDArray[np.float64]:
    """Return the voltage at each meter.

    Parameters
    ----------
    fleet, seed : Fleet, int
        Who shares which transformer.
    nominal_v : float
        Nominal voltage of the region [V].
    minutes : int array, shape (steps,)
        When.
    net_kw : float32 array, shape (steps, devices)
        What each meter draws [kW]; negative is export.
    jitter : float32 array, shape (steps, devices)
        Standard normal numbers: a meter's own noise.

    Returns
    -------
    float64 array, shape (steps, devices)
        Voltage [V], within 10 % of nominal.
    """
    first = fleet.first_of_transformer
    rating_kw = np.add.reduceat(fleet.contract_kw, first)
    use = np.add.reduceat(net_kw, first, axis=1) / rating_kw
    tap = _TAP_SPREAD * np.clip(keyed(seed, Purpose.TAPS).standard_normal(len(first)), -2, 2)
    turn = 2 * np.pi * (minutes % MINUTES_PER_DAY / MINUTES_PER_DAY - 19 / 24)
    evening = _EVENING_SAG * np.cos(turn)
    shared = 1 + tap - evening[:, None] - SAG_AT_CONTRACT_LOAD * use
    share = np.take(shared, fleet.transformer, axis=1) + _NOISE * jitter
    return nominal_v * np.clip(share, 1 - BAND, 1 + BAND)
