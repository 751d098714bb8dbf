"""Protein sequences and measured properties."""
