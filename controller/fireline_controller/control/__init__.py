"""The controller's own service for operators: wire, then engine, then wire. The daemon may import it."""

from fireline_controller.control.service import ControlService
from fireline_controller.control.tokens import Tokens

__all__ = ["ControlService", "Tokens"]
