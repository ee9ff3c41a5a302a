"""The effects: processes, uv, the machine, environments on disk."""
