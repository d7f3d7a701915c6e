"""Write made-up volumes without labels: `python scripts/phantom_volumes.py FOLDER [--plain]`.

FOLDER/flare holds the NIfTI files, FOLDER/domains.csv the domain of each, unless they are plain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_data.phantom.domains import DOMAINS


def main() -> None:
    """Write the volumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--volumes", type=int, default=30)
    parser.add_argument("--matrix", type=int, default=128)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--plain", action="store_true", help="without domains")
    args = parser.parse_args()
    spec = CohortSpec(
        patients=1,
        unlabelled=args.volumes,
        matrix=args.matrix,
        seed=args.seed,
        domains=() if args.plain else tuple(DOMAINS),
    )
    print(write_cohort(spec, args.folder).flare)


if __name__ == "__main__":
    main()
