"""How archives are laid out: each layout turns a folder into a cohort of series."""
