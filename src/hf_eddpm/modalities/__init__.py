"""Kinds of data: what each brings, one folder a kind, and the registry they stand in."""
