"""Checks of single steps: their fields, what they are given, and what they name."""
