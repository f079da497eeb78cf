"""Score profiles against a rubric with a language model, and store its evidence with the score."""
