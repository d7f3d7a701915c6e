"""Organs by the names of their files: one label map for each organ, as TotalSegmentator writes."""

from __future__ import annotations

import re

ORGAN_FILES = {
    "adrenal_gland_left": "adrenal_left",
    "adrenal_gland_right": "adrenal_right",
    "adrenal_left": "adrenal_left",
    "adrenal_right": "adrenal_right",
    "aorta": "aorta",
    "bowel": "bowel",
    "colon": "colon",
    "duodenum": "duodenum",
    "esophagus": "oesophagus",
    "gallbladder": "gallbladder",
    "inferior_vena_cava": "inferior_vena_cava",
    "kidney_left": "kidney_left",
    "kidney_right": "kidney_right",
    "liver": "liver",
    "oesophagus": "oesophagus",
    "pancreas": "pancreas",
    "small_bowel": "small_bowel",
    "spleen": "spleen",
    "stomach": "stomach",
    "urinary_bladder": "urinary_bladder",
}
"""Organ by the name of its file, without ending. TotalSegmentator names a hundred structures more:
bones, muscles and vessels, which do not determine the box of the abdomen."""


def organ_of_file(path: str) -> str:
    """The organ that a file is named after; empty if it is none of ORGAN_FILES."""
    name = path.rpartition("/")[2]
    stem = re.sub(r"(\.seg)?(\.nii(\.gz)?|\.nrrd)$", "", name, flags=re.IGNORECASE)
    return ORGAN_FILES.get(stem.lower(), "")
