"""A model over HTTP, with OpenAI's completions as its manners."""

from .completions import Service
from .http import Limits, Server

__all__ = ["Limits", "Server", "Service"]
