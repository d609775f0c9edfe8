"""Floor 5: the stories, and the only place where the floors below meet."""
