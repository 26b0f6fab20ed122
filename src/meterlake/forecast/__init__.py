"""Forecasts and anomalies: from hourly and daily energies to models, bands and their results.

The path: series (hours of readings), features, sample (rows to learn from), port (a forecaster:
networks or gradient_trees, found by registry), fleet (forecasts of all meters by one), calibration,
learning (training units), training, models (what is stored, and which is current); bands (what a
day may be). Needs the extra `ml`.
"""
