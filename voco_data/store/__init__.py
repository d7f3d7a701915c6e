"""The store of volumes: spec, records, catalogue, reading and writing. See STORE.md."""
