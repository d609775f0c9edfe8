"""Floor 5: the tasks, and the only place where the floors below meet."""
