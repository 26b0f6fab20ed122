"""Simulation: a fleet of meters with known faults, its grid, weather and head-end system."""
