"""What this process runs on: its console, files, locks, other processes, dtypes."""
