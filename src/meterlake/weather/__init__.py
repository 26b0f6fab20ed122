"""Weather: loaded from a source, asked as temperature series."""
