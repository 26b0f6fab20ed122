"""Formats: bytes to readings, a module for each kind of delivered file; profiles/ is shipped."""
