"""One flow-matching engine that carries any source modality to any target modality."""

__version__ = "0.1.0"
