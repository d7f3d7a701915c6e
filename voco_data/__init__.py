"""CT archives in, cached stores of volumes out. Each package names its key types."""
