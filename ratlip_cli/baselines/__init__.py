"""The other papers of the comparison, one file a paper."""
