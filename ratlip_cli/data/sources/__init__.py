"""Where pictures come from: each source yields records of the one layout."""
