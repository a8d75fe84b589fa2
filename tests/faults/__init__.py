"""What must not break when things do: kill -9, full disks, cut-off files."""
