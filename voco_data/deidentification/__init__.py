"""Pseudonyms for ids, and a guard against text burned into pixels."""
