"""Files of other systems, fetched whole and verified, before the lake takes them in."""
