"""What fills a disk, and what makes room on it. One module is one action, unless it says otherwise."""
