"""What can be asked of a lake: SQL, listings, the catalog."""
