"""Chunk files: encoding, reading into memory, caching."""
