"""From a checkpoint to results."""
