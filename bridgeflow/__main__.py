"""`python -m bridgeflow`, the form that `accelerate launch -m bridgeflow` needs."""

from bridgeflow.cli.main import main

main()
