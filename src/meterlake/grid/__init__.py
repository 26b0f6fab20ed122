"""The grid: voltage, load and outages, from readings and topology."""
