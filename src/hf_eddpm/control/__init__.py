"""Steering, directions and optimisation: functions over a model, its scheduler and latents."""
