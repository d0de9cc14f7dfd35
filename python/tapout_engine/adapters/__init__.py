"""Models and drafters behind the protocols of :mod:`tapout_engine.engine`."""
