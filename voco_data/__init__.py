"""CT archives in, cached stores of volumes out. Imports nothing heavy; see each module."""
