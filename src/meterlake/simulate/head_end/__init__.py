"""A head-end system that does not exist: it reads a fleet of meters as time passes.

It has an API that takes requests for files, an SFTP server that hands the files out, and faults
on request, for testing programs that pull from such systems. It knows nothing of the lake.
"""
