"""All that a domain may import to write a handler: registry, context, outcomes, errors, ports, limits."""
