"""Days off: weekends and public holidays, by country and subdivision."""

from collections.abc import Callable
from datetime import date
from functools import cache

from meterlake.errors import BadInput

SATURDAY = 5


def holidays_of(country: str | None, subdivision: str | None = None) -> Callable[[date], bool]:
    """Whether a date is a public holiday; without a country none is.

    Parameters
    ----------
    country : ISO 3166-1 alpha-2 code, such as AU
    subdivision : ISO 3166-2 code without the country, such as NSW

    Raises
    ------
    BadInput
        The package holidays is not installed, or does not know the country or subdivision.
    """
    if country is None:
        if subdivision is not None:
            raise BadInput(
                f"The setting ml.subdivision needs ml.country; found '{subdivision}' alone"
            )
        return lambda day: False
    try:
        import holidays
    except ImportError as error:
        raise BadInput(
            f"Public holidays need the package holidays: pip install 'meterlake[ml]' "
            f"(found: {error})"
        ) from error
    try:
        known = holidays.country_holidays(country, subdiv=subdivision)
    except NotImplementedError as error:
        raise BadInput(
            "The settings ml.country and ml.subdivision need ISO 3166 codes that the package "
            f"holidays knows, such as AU and NSW; found {country!r} and {subdivision!r}: {error}"
        ) from error
    return cache(lambda day: day in known)


def days_off(is_holiday: Callable[[date], bool]) -> Callable[[date], bool]:
    """Whether a date is a Saturday, a Sunday or a holiday."""
    return lambda day: day.weekday() >= SATURDAY or is_holiday(day)
