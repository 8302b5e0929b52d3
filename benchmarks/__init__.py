"""Every op against every rival that is installed: ``python -m benchmarks --help``."""
