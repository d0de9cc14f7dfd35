"""The one exception of this layer: its message is a complete sentence for whoever called."""


class EngineError(RuntimeError):
    """A request, a model or a setting that cannot work; the command line prints it and exits 2."""
