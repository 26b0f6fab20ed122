"""Integrate: staging to readings, readings to serving and energies; late reads and their hooks."""
