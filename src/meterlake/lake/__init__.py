"""The lake's Delta tables: storage, layout, snapshot, commit, SQL."""
