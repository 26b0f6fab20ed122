"""Bytes to readings: one module per kind of delivered file."""
