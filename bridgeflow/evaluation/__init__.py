"""How good results are: a task's own metrics over held-out rows."""
