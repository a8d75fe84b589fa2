"""One host's hands. Never imports the controller."""

from typing import Final

# The distribution's own; here too, since reading it from the installed metadata costs more than the rest of start-up.
__version__: Final = "0.1.0"
