"""Studies: a set of trainings that differ in one thing each, scored alike, and what is claimed of them."""
