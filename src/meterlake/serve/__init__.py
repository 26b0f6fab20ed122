"""What people and dashboards ask: the REST API, who may ask it, SQL in a process apart."""
