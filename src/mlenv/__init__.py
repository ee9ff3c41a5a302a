"""mlenv: one hashed application lock, proven on every CUDA build, and environments that are never half-built."""

__version__ = "0.1.0"
