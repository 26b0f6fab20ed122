"""Dataflows: data from elsewhere that is loaded, prepared and kept as tables of the lake."""
