"""What every command shares: parsing, exit codes, the same flags on all ranks."""
