"""What runs underneath: the host's cores, memory, files and terminal, and the launcher.

No NumPy.
"""
