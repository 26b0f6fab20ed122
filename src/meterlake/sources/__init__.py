"""Where deliveries come from: one port, one runner, one ledger, one fetcher.

A source answers `poll(cursor)` with a batch of files (`port`). The runner claims the source, polls
it, fetches each file, ingests it, records it in the ledger and lets the source put it away. Kinds
of sources are `places` (files in a folder, on a server or in a bucket) and `head_end` (systems
that make files on request).

To add a protocol for places, write one module with a `Place` and register it in
`source_settings.PLACES`. To add another kind of source, write one module with a `Source` and
construct it in a command of `cli`.
"""
