"""Staging to integrated."""
