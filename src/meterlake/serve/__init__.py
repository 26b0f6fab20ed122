"""The server: the REST API, access to it, and SQL in a process of its own."""
