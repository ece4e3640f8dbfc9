"""Published systems beside RATLIP and GALIP, one file a paper."""
