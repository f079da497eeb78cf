"""Score profiles against a rubric with a language model, and keep its evidence beside the score."""
