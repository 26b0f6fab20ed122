"""Weather: hourly observations, loaded from Meteostat's files or a CSV file."""
