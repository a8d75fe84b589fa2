"""A companion for tests: answers each line with its pid and the line; `die` and `hang` do what they say."""

import os
import sys
import time

if __name__ == "__main__":
    for line in sys.stdin:
        if line.strip() == "die":
            sys.exit(1)
        if line.strip() == "hang":
            time.sleep(60)
        print(os.getpid(), line.strip(), flush=True)
