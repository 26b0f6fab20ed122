"""The grid's topology: loaded as states with validity, asked as of a moment."""
