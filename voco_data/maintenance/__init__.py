"""List, verify, clean and export stores."""
