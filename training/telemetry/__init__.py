"""What a rank says of itself while it trains: its pulse, its collectives, its seconds, its node's resources."""
