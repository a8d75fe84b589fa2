"""The agent's own program with the test collectors in its registry. See `agents`."""

import sys

from fireline_agent.main import main

MANNERS = ("well", "hang", "die", "flood", "breed", "broken", "stuck")

if __name__ == "__main__":
    collectors = {name: f"tests.integration.agent.collectors.{name}" for name in MANNERS}
    sys.exit(main(collectors=collectors | {"disk_image": "fireline_agent.capture.disk_image"}))
