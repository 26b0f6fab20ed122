"""A fleet of meters that does not exist: coherent readings with known faults, and known damage."""
