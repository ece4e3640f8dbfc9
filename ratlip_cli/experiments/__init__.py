"""Experiments: sweeps of runs, the ledger of what came of them, and the tables that are made of it."""
