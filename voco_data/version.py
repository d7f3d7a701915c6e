"""The version of this software, as records and reports state it."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("voco")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0+unknown"
