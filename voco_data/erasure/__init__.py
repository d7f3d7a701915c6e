"""Erase a patient from everything under a root."""
