"""Checkpoints as folders and Hub repositories: saving, loading, adapters, cards."""
