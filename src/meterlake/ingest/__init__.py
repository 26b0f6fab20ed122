"""Inbound files to staging."""
