"""Ingest: delivered files to staging, quarantine and deliveries; restored from inbound/."""
