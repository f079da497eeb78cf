"""The HTTP door: it parses a request, calls a use-case and renders its view. It holds no SQL and no rule."""
