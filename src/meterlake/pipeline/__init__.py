"""Derived tables: what a derivation is, the runner that brings one up, the registry of all."""
