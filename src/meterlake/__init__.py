"""An open meter-data lake: inbound files to Parquet and Delta, and questions answered."""

__version__ = "0.1.0"
