"""Delta tables: where bytes are, what a table holds, how it changes. Knows nothing of meters."""
