"""Rendered birds, flowers and faces whose attributes are known exactly: a world small enough for two CPU cores."""
