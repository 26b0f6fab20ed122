"""Forecasts and anomalies: from hourly and daily energies to models, bands and their results.

The path: series (hours of readings), features, forecaster (the model), learning (training units),
models (what is stored); bands (what a day may be). Needs the extra `ml`.
"""
