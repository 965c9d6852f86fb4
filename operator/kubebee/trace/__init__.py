"""What would happen to a packet: the program that runs here, run once more over maps of its own."""
