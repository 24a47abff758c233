"""Tests, and programs beside them (`python -m tests.bench`). A package, for dependencies install one of this name."""
