"""Encoding and generating many data, in parts that survive a kill."""
