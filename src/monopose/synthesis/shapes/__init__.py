"""Meshes made in code."""
