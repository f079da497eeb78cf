"""Judge a project's records against its guidelines, rate them, and compare the ratings of people and models."""
