"""The system underneath: host, files, terminal, launcher. No NumPy."""
