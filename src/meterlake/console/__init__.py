"""The console: pages in the browser; each has a module, a template and a URL."""

from meterlake.console import (
    anomalies,
    forecast,
    meter,
    outages,
    overview,
    quality,
    sign_in,
    sql,
    volt_var,
    weather,
)
from meterlake.console.pages import router

__all__ = [
    "anomalies",
    "forecast",
    "meter",
    "outages",
    "overview",
    "quality",
    "router",
    "sign_in",
    "sql",
    "volt_var",
    "weather",
]
