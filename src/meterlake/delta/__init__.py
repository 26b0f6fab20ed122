"""Delta tables: where bytes lie, what a table holds, how it changes. Knows nothing about meters."""
