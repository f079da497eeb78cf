"""One module per resource; each has a ``router``, which :func:`gateway.app.create_app` finds by itself."""
