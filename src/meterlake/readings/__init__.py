"""Readings: which files hold them, how they are read, what energy they are."""
