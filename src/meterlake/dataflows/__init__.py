"""Dataflows: data from elsewhere, loaded, prepared and kept as tables; port, registry and run."""
